"""Tests with the real libraries of the extra `ecosystem`; each is skipped where its library is missing."""

from pathlib import Path

import pytest

from samples.sentence_models import make_sentence_transformer

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ecosystem)
            item.add_marker(pytest.mark.filterwarnings("default"))  # those of the libraries are theirs


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries(tmp_path_factory):
    """Nothing is sent or downloaded, and results stay in the tests' folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTEB_CACHE", str(tmp_path_factory.mktemp("mteb")))
        patch.setenv("DISABLE_TELEMETRY", "1")
        patch.setenv("WANDB_MODE", "disabled")
        yield


@pytest.fixture
def library(request):
    """Import a library by name, or skip the test and say how to install it."""

    def imported(name):
        return pytest.importorskip(
            name, reason=f"{name} is not installed: pip install 'winning-tickets[ecosystem]'", exc_type=ImportError
        )

    return imported


@pytest.fixture
def sentence_model(tmp_path):
    """The folder of a tiny sentence-transformer with mean pooling and normalization."""
    return make_sentence_transformer(tmp_path / "sentences")
