"""Lines of progress."""

import logging

from sublora import progress


def test_progress_lines(monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        with progress.progress("quick", 10) as advance:
            advance(1)
        assert caplog.text == ""
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        with progress.progress("slow", 10) as advance:
            advance(4)
        with progress.progress("endless") as advance:
            advance(4)
    assert "slow: 4 of 10" in caplog.text
    assert "left" in caplog.text
    assert "endless: 4," in caplog.text
