"""The tests in fresh environments: `nox`, or one session of `nox --list`.

The oldest and the newest Python and torch that setup.cfg allows, and both mm stacks. An environment
takes about 6 GB and is used again. A Python that the machine lacks is skipped.
"""

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["upstream", "onedl"]

PYTEST = ("pytest", "-n", "2", "--dist", "worksteal")
PAIRS = [
    nox.param("3.10", "torch==2.6.*", id="python3.10-torch2.6"),
    nox.param("3.11", "torch", id="python3.11"),
    nox.param("3.13", "torch", id="python3.13"),
]


@nox.session
@nox.parametrize("python,torch", PAIRS)
def upstream(session: nox.Session, torch: str) -> None:
    """mmdet and mmseg as OpenMMLab released them."""
    session.install(torch, "-e", ".[mm,test]")
    session.run("python", "-c", "import sys, torch; print(sys.version, torch.__version__)")
    session.run(*PYTEST, *session.posargs)


@nox.session(python="3.11")
def onedl(session: nox.Session) -> None:
    """The maintained OneDL forks of the mm stack."""
    session.install("-e", ".[onedl,test]", env={"MMCV_WITH_OPS": "0"})
    session.run(*PYTEST, *session.posargs)
