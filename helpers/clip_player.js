// The explorer's view of one clip: its video, a time axis that follows it, and the chosen stretch of motion close up.
// In: the traits of `helpers.explorer.ClipPlayer`; all arrive together and `state` is the sign. Out: `segment` when one
// is chosen by mouse or keyboard. The line of text below carries `data-state` once all of it is drawn.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 46, RIGHT = 12, TITLE = 20, ROW = 84, GAP = 12, AXIS = 36; // pixels
const HEIGHT = 2 * (TITLE + ROW) + GAP + AXIS;

function node(tag, attributes, parent, text) {
  const made = tag in { video: 1, figure: 1, img: 1, p: 1, div: 1 }
    ? document.createElement(tag) : document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((k) => k * power >= rough * 0.999) ?? 10);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-6); k * step <= high * (1 + 1e-6); k++) found.push(k * step);
  return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-6)) };
}

const written = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
const middle = (scene, j) => (scene.start_s[j] + scene.end_s[j]) / 2;
const nearest = (times, t) => times.reduce((best, x, i) => (Math.abs(x - t) < Math.abs(times[best] - t) ? i : best), 0);

/** Horizontal: seconds to pixels. */
const across = (scene, width) => (t) => LEFT + (t / scene.duration_s) * (width - LEFT - RIGHT);

/** One row of the time axis: title, ticks, and where its values lie. */
function row(svg, top, title, low, high, width) {
  const y = (value) => top + TITLE + ROW * (1 - (value - low) / (high - low));
  node("text", { class: "title", x: LEFT, y: top + 13 }, svg, title);
  const marks = ticks(low, high, 3);
  for (const value of marks.values) {
    node("line", { class: value === 0 ? "zero" : "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }, svg);
    node("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, svg, written(value, marks.digits));
  }
  return y;
}

function bars(svg, kind, scene, values, x, y, share, color) {
  values.forEach((value, j) => {
    const wide = x(scene.end_s[j]) - x(scene.start_s[j]), inner = wide * share;
    node("rect", {
      class: kind, x: x(scene.start_s[j]) + (wide - inner) / 2, width: Math.max(inner, 1),
      y: Math.min(y(value), y(0)), height: Math.abs(y(value) - y(0)), ...(color && { fill: color }),
    }, svg);
  });
}

function shade(svg, scene, x) {
  for (const span of scene.windows) {
    const width = x(span.stop_s) - x(span.start_s);
    node("rect", { class: "window", x: x(span.start_s), width, y: TITLE, height: HEIGHT - AXIS - TITLE, fill: span.color }, svg);
    node("text", { class: "tick", x: x(span.start_s) + 3, y: TITLE + 12 }, svg, span.name);
  }
}

function timeAxis(svg, scene, x, width) {
  const y = HEIGHT - AXIS, marks = ticks(0, scene.duration_s, Math.max(3, width / 90));
  node("line", { class: "zero", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }, svg);
  for (const t of marks.values) {
    node("text", { class: "tick", x: x(t), y: y + 15, "text-anchor": "middle" }, svg, written(t, marks.digits));
  }
  node("text", { class: "tick", x: 0, y: y + 31 }, svg, "time (s)");
}

/** A button over every motion token, as high as both rows; arrow keys go from one to the next. */
function segments(svg, scene, x, chosen, choose) {
  return scene.share.map((share, j) => {
    const said = `motion ${written(scene.start_s[j], 2)} to ${written(scene.end_s[j], 2)} s: ` +
      `${written(100 * share, 0)} % of the attention, ${scene.label} ${written(scene.values[j], 3)}`;
    const button = node("rect", {
      class: "segment", x: x(scene.start_s[j]), width: x(scene.end_s[j]) - x(scene.start_s[j]), y: TITLE,
      height: HEIGHT - AXIS - TITLE, role: "button", "aria-label": said, "data-segment": j,
      "aria-pressed": j === chosen, tabindex: j === chosen ? 0 : -1,
    }, svg);
    node("title", {}, button, said);
    button.addEventListener("click", () => choose(j));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0;
      const next = Math.min(Math.max(j + step, 0), scene.share.length - 1);
      if (!step && event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      choose(next, true);
    });
    return button;
  });
}

function render({ model, el }) {
  el.classList.add("clip-player");
  const video = node("video", { controls: "", muted: "", playsinline: "", preload: "auto" }, el);
  video.muted = true;
  const svg = node("svg", { class: "time-axis", height: HEIGHT, role: "group" }, el);
  const picture = node("img", { class: "close-up" }, node("figure", {}, el));
  const status = node("p", { class: "status", role: "status" }, el);
  let urls = {}, buttons = [], moving = [], x = null, width = 0;
  const scene = () => model.get("scene");

  function show(name, target, bytes, mime) {
    if (urls[name]?.bytes === bytes) return false;
    if (urls[name]) URL.revokeObjectURL(urls[name].url);
    urls[name] = { bytes, url: URL.createObjectURL(new Blob([bytes], { type: mime })) };
    target.src = urls[name].url;
    return true;
  }

  function choose(j, focus = false) {
    video.currentTime = middle(scene(), j);
    if (video.hidden) moveTo(middle(scene(), j));
    if (j !== model.get("segment")) {
      el.classList.add("waiting"); // until Python has drawn it
      model.set("segment", j);
      model.save_changes();
    }
    mark(j);
    if (focus) buttons[j].focus();
  }

  function mark(chosen) {
    buttons.forEach((button, j) => {
      button.setAttribute("aria-pressed", j === chosen);
      button.setAttribute("tabindex", j === chosen ? 0 : -1);
    });
  }

  function drawAxis() {
    width = Math.max(svg.clientWidth, 320);
    const now = scene(), [low, high] = now.value_range, focused = svg.contains(svg.getRootNode().activeElement);
    svg.replaceChildren();
    svg.setAttribute("aria-label", `time axis of ${now.clip}`);
    x = across(now, width);
    shade(svg, now, x);
    const share = row(svg, 0, `attention (%): bars mean of all faces, dots the face at the cursor`, 0, 100 * now.share_top, width);
    const below = row(svg, TITLE + ROW + GAP, now.label, low, high, width);
    bars(svg, "share", now, now.share.map((s) => 100 * s), x, share, 1);
    bars(svg, "value", now, now.values, x, below, 0.8, now.color);
    timeAxis(svg, now, x, width);
    moving = now.share.map((_, j) => node("circle", { class: "dot", r: 4, cx: x(middle(now, j)) }, svg));
    moving.y = share;
    moving.line = node("line", { class: "cursor", y1: TITLE, y2: HEIGHT - AXIS }, svg);
    moving.time = node("text", { class: "cursor-time", y: HEIGHT - 5, "text-anchor": "middle" }, svg);
    buttons = segments(svg, now, x, model.get("segment"), choose);
    if (focused) buttons[model.get("segment")].focus();
    moveTo(video.currentTime);
  }

  function moveTo(t) {
    const now = scene();
    if (!x || !now.share) return;
    const face = nearest(now.face_s, t);
    moving.line.setAttribute("x1", x(t));
    moving.line.setAttribute("x2", x(t));
    moving.line.dataset.timeS = t.toFixed(3);
    moving.line.dataset.face = face;
    moving.time.setAttribute("x", Math.min(Math.max(x(t), 76), width - 24)); // beside "time (s)"
    moving.time.textContent = `${t.toFixed(2)} s`;
    moving.forEach((dot, j) => dot.setAttribute("cy", moving.y(100 * now.rows[face][j])));
  }

  function draw() {
    const now = scene();
    if (now.share) {
      const bytes = model.get("video");
      video.hidden = !bytes.byteLength; // of features from elsewhere, there may be none
      if (!video.hidden && show("video", video, bytes, "video/mp4")) {
        video.setAttribute("aria-label", `video of ${now.clip}`);
        video.currentTime = middle(now, model.get("segment"));
      }
      drawAxis();
      show("picture", picture, model.get("picture"), "image/png");
      picture.alt = `face and motion of ${now.clip} close up, and the attention of each face token to it by head`;
    }
    say();
    status.dataset.state = model.get("state");
  }

  function say() {
    status.textContent = model.get("message");
    el.classList.remove("waiting");
  }

  function follow(_, frame) {
    moveTo(frame.mediaTime);
    video.requestVideoFrameCallback(follow);
  }
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(follow);
  else video.addEventListener("timeupdate", () => moveTo(video.currentTime));
  video.addEventListener("seeked", () => moveTo(video.currentTime));
  video.addEventListener("error", () => (status.textContent = `this browser cannot play the video: ${video.error.message}`));

  const resized = new ResizeObserver(() => scene().share && svg.clientWidth !== width && drawAxis());
  resized.observe(svg);
  model.on("change:state", draw);
  model.on("change:message", say);
  draw();
  return () => {
    resized.disconnect();
    model.off("change:state", draw);
    model.off("change:message", say);
    Object.values(urls).forEach(({ url }) => URL.revokeObjectURL(url));
  };
}

export default { render };
