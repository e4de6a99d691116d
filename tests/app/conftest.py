"""What tests of the command line share."""

import struct

import pytest
from matplotlib.figure import Figure

from jaxgmm.app import cli

PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1, 1)


@pytest.fixture
def quick_figures(monkeypatch):
    """Files of figures without what takes long to draw."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(PNG_HEADER))


@pytest.fixture
def jaxgmm(capfd, tmp_path, monkeypatch):
    """The command line in this process and an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), *capfd.readouterr()

    return call
