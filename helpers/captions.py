"""What the saved figures show: section of the report, title and a sentence for each, in one table.

In: the name of a file in `figures/`. Out: its `Caption`, and its place in the order of the table. A figure that is not
in the table has its name for a title, comes last, and stands in the section of its notebook.
"""

from typing import NamedTuple


class Caption(NamedTuple):
    """Section of the report, title, and what is to be seen."""

    section: str
    title: str
    shows: str


SECTIONS = {  # of figures that are not in the table, by the number of their notebook
    "00": "speed", "01": "data", "02": "features", "03": "features", "04": "features", "05": "features",
    "06": "errors", "07": "attention", "08": "classification", "09": "scored",
}  # fmt: skip

_TABLES = {
    "data": """
01_rating_distributions | Ratings | How often each rating was given, trait by trait.
01_trait_correlations | Ratings between traits | Pearson correlation of the ratings over clips.
01_constant_floor | The floor | Score of the constant predictor on the official test clips; any model has to beat it.
01_leakage | Leakage of the official split | Share of clips whose source also has clips to train on.
""",
    "speed": """
00_speed | Speed of this machine | Matrix products and convolutions, in operations per second.
00_throughput | Networks over batch sizes | Images and clips per second through the two networks alone.
02_decoders | Decoders | Speed of each way to decode, and whether it gives the same frames.
03_time | Where the time of 03 went | Seconds of decoder processes and network; they work at the same time.
04_time | Where the time of 04 went | Seconds of decoder processes and network; they work at the same time.
""",
    "models": """
06_models | Test R² of every model | By trait; 0 is the constant predictor, 1 is perfect.
06_intervals | Better than a constant? |
    Differences in R² with 95 % intervals by source; one that holds 0 tells nothing apart.
""",
    "curves": """
06_history | Training and validation error |
    Of every network over the epochs; the kept epoch is best on validation clips.
06_training_dashboard | One training from close by |
    Errors, steps, learning rate, traits and what went together over the epochs.
06_training_time | Where the time of a training went | Epochs, steps, shares of the time, and what would shorten it.
""",
    "errors": """
06_predictions | Predicted against rated | Test clips of one seed; on the diagonal a prediction is right.
06_residuals | Residuals | Errors of the model beside those of the constant, with the 90 % interval.
06_correlations | Correlations between traits |
    Of ratings and predictions: one general impression correlates traits more.
06_calibration | Calibration | Mean rating over mean prediction; on the dotted line a predicted 0.7 is a 0.7.
06_errors_by_source | Errors by source | One bad video may hide behind a good mean.
06_errors_by_length | Errors by clip length | More seconds hold more to see.
06_group_errors | Errors by group | Of each group minus everyone else's, with 95 % intervals.
""",
    "attention": """
07_clip | What the model reads, face by face |
    Lines: attention from faces to motion. Bars: change of the score without it.
07_heads | The heads | Attention of each head from face tokens to motion tokens.
07_lag | Is the map learned? | Attention by time lag: trained, before training, and of the control.
07_entropy | Does the map depend on the clip? | Entropy of each head over the test clips; 1 looks everywhere alike.
07_traits | Heads and traits | Attention of each head and relevance for each trait, over the clip's time.
07_clips | Clip by clip | Where the relevance for the trait lies, from the sharpest attention to the flattest.
07_groups | Group by group | Relevance over time: median over clips, and the middle half.
07_pointing | What the answer rests on |
    How often the largest effect lies inside a planted event: model, control, and what needs no model.
07_relevance | Is each trait's relevance where it should be? |
    Share of the relevance inside planted events, by trait; the dotted line is the share of tokens there.
07_deletion | Does the answer change sooner in the right order? |
    Change of the score as motion is taken away or put back, by order; right: the control.
07_randomisation | Would it look the same anyway? |
    Rank correlation with maps of models that cannot have learned the cue, with 95 % intervals by source.
07_agreement | Do seeds agree? |
    Rank correlation between seeds on the same clip, and on another clip, which is the floor.
07_explorer | The explorer | One clip as the explorer in JupyterLab shows it.
07_share_effect | Does much attention mean much effect? |
    Attention on each motion token against the effect of its loss.
""",
    "classification": """
08_curves | Can the classes be told apart? | ROC and precision-recall curves of each class, and the area under them.
08_accuracies | Accuracies | On clips that no member saw, with 95 % intervals by source, beside the baselines.
08_gains | What each step gains | Paired differences in accuracy with 95 % intervals.
08_confusion | Confusions | True class by row, answer by column.
08_reliability | Is it as often right as it is sure? | Accuracy over confidence.
08_robustness | Damaged clips | Accuracy under noise, blur and other damage.
""",
    "scored": """
09_score | Scores of one clip | With 90 % intervals, the constant beside them and the training ratings behind.
09_attention | Where the model looked in it |
    Attention on its time axis, and what each stretch of motion does to the scores.
""",
    "features": """
02_coverage | Faces found | In what share of the looked-at frames clips show their face; where the boxes come from.
02_lowest_coverage | Where the face is lost | The clip with the least face.
02_faces | One stable box per clip | The box that every frame of a clip is cropped with.
02_path | A face's path | Centre of the face over time, how sure the detector is, and the one box of the clip.
02_jitter | Steadiness of the box | How far a box moves from frame to frame, found and smoothed.
02_flow | Optical flow | Motion inside the box; hue is direction, depth of colour is speed.
02_flow_errors | Flow methods | Error on a known motion, clean and noisy, and against speed.
02_speed | What a box leaves of the motion | Mean flow in one clip: with one box, a smoothed box, and a box as found.
03_crops | Faces as the network gets them | Crops of one clip with their times.
03_rows | Static features of one clip | One row per face, one column per channel.
03_similarity | Static features between clips | Cosine similarity; blocks along the diagonal are clips of one source.
03_layers | Activations of the static network | How large the answers of each stage to one face are.
03_maps | Feature maps of the static network | What single filters answer to one face.
03_grad_cam | Where the static features come from |
    Grad-CAM over the face: red parts make this clip unlike the mean clip, blue ones like it.
03_maximised | What static channels answer to |
    Pictures made to raise one channel each; they are of the network, not of a clip.
03_channel_health | Static channels in use | Channels that never answer, or always alike, tell nothing.
03_channels | Distribution of static channels | Spread of the features, channel by channel.
03_consistency | Static features: who, or what? | Similarity within a source against between sources.
03_ratings | Static features and ratings | Whether clips of different sources with like ratings have like features.
03_plane | Static features in a plane | Clips by their first components, coloured by what is known of them.
04_flow | Flow as the network gets it | Flow of one clip, segment by segment.
04_rows | Dynamic features of one clip | One row per segment, one column per channel.
04_similarity | Dynamic features between clips | Cosine similarity; blocks along the diagonal are clips of one source.
04_layers | Activations of the motion network | How large the answers of each stage to one clip are.
04_maps | Feature maps of the motion network | What single channels answer to one clip.
04_evolution | Features over time | How the dynamic features change along one clip.
04_space_time | Activation over space and time | Where and when the motion network answers.
04_surface | Activation as a surface | The same over time and one direction of the picture.
04_flow_and_features | Flow beside features | The flow strip of one clip over the features made of it.
04_grad_cam | Where the dynamic features come from | Grad-CAM over space and time, on the flow.
04_maximised | What motion channels answer to |
    Flow made to raise one channel each; it is of the network, not of a clip.
04_channel_health | Dynamic channels in use | Channels that never answer, or always alike, tell nothing.
04_channels | Distribution of dynamic channels | Spread of the features, channel by channel.
04_consistency | Dynamic features: who, or what? | Similarity within a source against between sources.
04_ratings | Dynamic features and ratings | Whether clips of different sources with like ratings have like features.
04_plane | Dynamic features in a plane | Clips by their first components, coloured by what is known of them.
05_components | Reduced features | Standard deviation of each channel after the reduction.
05_token_times | Tokens on the time axis | When the face tokens and the motion tokens of a clip lie.
""",
}
CAPTIONS = {
    name: Caption(section, title, shows)
    for section, table in _TABLES.items()
    for name, title, shows in (line.split(" | ") for line in table.replace(" |\n    ", " | ").strip().splitlines())
}


def caption_of(name: str) -> Caption:
    """The caption of a figure by its file's name without suffix; `03_maps_stem` is one of the figures `03_maps`."""
    known = _known(name)
    if known is None:
        return Caption(SECTIONS.get(name[:2], "features"), name.replace("_", " "), "")
    section, title, shows = CAPTIONS[known]
    which = name.removeprefix(known).replace("_", " ").strip()
    return Caption(section, f"{title}: {which}" if which else title, shows)


def _known(name: str) -> str | None:
    """The longest name of the table that is this one or begins it."""
    parts = name.split("_")
    begins = ("_".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((begin for begin in begins if begin in CAPTIONS), None)


def place_of(name: str) -> tuple[int, str]:
    """Where a figure stands among others: in the order of the table, then, and beyond it, by name."""
    known = _known(name)
    return (len(CAPTIONS) if known is None else list(CAPTIONS).index(known)), name
