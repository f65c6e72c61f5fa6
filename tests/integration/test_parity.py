"""The released weights in float32: the engine against PyTorch, token for token."""

from __future__ import annotations

from pathlib import Path

from export.bundle import ExportSettings, _manifest, _write_files
from export.release import read_trained
from export.verify import Exported, stepwise_difference, torch_greedy
from server.bundle import Bundle

ROOT = Path(__file__).parents[2]


def test_500_real_sentences_come_out_as_in_pytorch(tmp_path: Path) -> None:
    trained = read_trained(ROOT / "checkpoints" / "en-zh-TW")
    settings = ExportSettings(name="en-zh-TW", precision="fp32")
    _write_files(trained, tmp_path, settings)
    exported = Exported(Bundle(tmp_path, _manifest(trained, settings, [], []), digest=""))
    lines = (ROOT / "loadtest" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    sources = exported.fitting(trained.tokenizers[0].encode(lines))
    assert len(sources) == 500
    highest, _ = stepwise_difference(trained.model, exported, sources[:32])
    assert highest < 1e-3
    expected = torch_greedy(trained.model, sources, exported.limits(sources))
    assert exported.greedy(sources) == expected
