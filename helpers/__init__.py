"""Helpers of the ocean workbook: what the numbered notebooks call (`from helpers import clips, model`)."""

import os

# TensorFlow prints a dozen lines about missing GPUs on import; notebook 00 reports devices in words instead.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
