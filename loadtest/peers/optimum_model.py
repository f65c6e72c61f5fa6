"""A checkpoint as Optimum exports it, and with int8 weights.

Optimum wants another version of ``transformers`` than ours, so its packages lie in a folder of
their own, which a process that runs it puts before ours. PyTorch and ONNX Runtime are everybody's:

    pip install --no-deps --target DIR 'optimum-onnx==0.1.0' 'optimum~=2.1.0' \
      'transformers<4.58' 'tokenizers>=0.22,<0.23' 'huggingface-hub<1.0' requests urllib3 \
      charset-normalizer
"""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic


def convert(packages: Path, checkpoint: Path, exact: Path, quantised: Path) -> None:
    """Write both; to be called in a process that has imported nothing of ``transformers`` yet.

    Args:
        packages: where Optimum is.
        checkpoint: in Hugging Face's layout.
        exact: where float32 goes.
        quantised: where int8 weights go; activations are quantised as they come.
    """
    sys.path.insert(0, str(packages.resolve()))
    from optimum.onnxruntime import ORTModelForSeq2SeqLM  # noqa: PLC0415  see above

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, of sizes that become constants
        network = ORTModelForSeq2SeqLM.from_pretrained(
            checkpoint, export=True, use_cache=True, use_merged=False, local_files_only=True
        )
    network.save_pretrained(exact)
    partial = quantised.with_name(f"{quantised.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in exact.iterdir():
        if path.suffix == ".onnx":
            quantize_dynamic(path, partial / path.name, weight_type=QuantType.QInt8)
        elif path.suffix == ".json":
            shutil.copy(path, partial)
    partial.rename(quantised)
