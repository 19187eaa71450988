"""Whether somebody looks on: what shows widgets, and what only executes.

In: the request that the kernel is answering. Out: a bool.
"""

from IPython import get_ipython


def in_front_end() -> bool:
    """Whether the running cell was sent by JupyterLab, Notebook or VS Code, so that widgets are seen.

    They name the cell in their request; papermill, nbval and nbconvert do not, whatever started them.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and "cellId" in kernel.get_parent("shell").get("metadata", {})
