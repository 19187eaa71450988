"""Helpers of the ocean workbook: what the numbered notebooks call (`from helpers import clips, model`)."""

import os
import sys

# TensorFlow prints a dozen lines about missing GPUs on import; notebook 00 reports devices in words instead.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# float32 is float32 on every device: GPUs since Ampere would multiply in TF32, with 10 bits of mantissa instead of 23.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # of cuDNN and cuBLAS, which TensorFlow and PyTorch compute by
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "float32")
if (jax := sys.modules.get("jax")) and jax.config.jax_default_matmul_precision is None:  # it has read its variables
    jax.config.update("jax_default_matmul_precision", os.environ["JAX_DEFAULT_MATMUL_PRECISION"])
