"""Optimum's ``ORTModelForSeq2SeqLM`` as a contender."""

from __future__ import annotations

from typing import Any

import onnxruntime
from optimum.onnxruntime import ORTModelForSeq2SeqLM

from loadtest.peers.contender import Setup
from loadtest.peers.transformers_engine import TransformersEngine


class OptimumEngine(TransformersEngine):
    """Its own model and session options but for threads; ``generate`` of ``transformers``."""

    def loaded(self, setup: Setup) -> Any:  # noqa: ANN401  the package has no types
        """As declared."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.threads
        options.log_severity_level = 3
        # Where the cores are shared, threads that spin while they wait cost it a third and more.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return ORTModelForSeq2SeqLM.from_pretrained(
            setup.model, session_options=options, local_files_only=True, use_cache=True
        )
