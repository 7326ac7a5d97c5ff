"""What a developer and CI run: ``nox -s tests``, then ``lint``, ``typing`` and ``docs``.

Each session uses the interpreter nox itself runs on; ``compat`` runs the tests on every supported
one that is installed. ``nox -R -s NAME`` reuses an environment without installing again.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # for `compat`, on CI too

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
SUPPORTED = ["3.11", "3.12", "3.13"]


# A module at a time, each process with a RabbitMQ of its own. In the order of their names, by which
# the many quick tests come last and fill what is left.
IN_PARALLEL = ("--numprocesses=2", "--dist=loadscope", "--no-loadscope-reorder")


def install(session: nox.Session, *groups: str) -> None:
    """Install the package, editable, together with dependency groups of pyproject.toml."""
    wanted = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install("-e", ".", *wanted)


def with_python(*folders: str) -> list[str]:
    """Return those of the folders that hold Python files."""
    return [name for name in folders if any((ROOT / name).rglob("*.py"))]


@nox.session
def demo(session: nox.Session) -> None:
    """Watch a complete run on the embedded broker; needs nothing but Python."""
    install(session)
    session.run("roger", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, two modules at a time; given arguments go to pytest instead."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *(session.posargs or IN_PARALLEL))


@nox.session(python=SUPPORTED)
def compat(session: nox.Session) -> None:
    """Run the tests on every supported interpreter that is here; a missing one is skipped."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *(session.posargs or IN_PARALLEL))


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, subprocesses included, and report the branches they did not take."""
    install(session, "tests")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types twice, mypy strict and pyright, and that the public API is fully typed."""
    install(session, "typing")
    session.run("mypy", *with_python("roger_trio", "tests/typing", "examples"))
    session.run("pyright")
    session.run("pyright", "--verifytypes", "roger_trio", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; any warning or broken reference fails."""
    install(session, "docs")
    flags = ("-W", "-n", "--keep-going", "-q")
    session.run("sphinx-build", *flags, "docs", "docs/_build/html", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Look for known vulnerabilities of dependencies; ``-- --required``: insist on an answer."""
    session.install("-e", ".", *nox.project.dependency_groups(PROJECT, "audit"))
    session.run("python", ".ci/audit.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz what reads foreign bytes, 20 s each, or ``-- TARGET SECONDS``; on Linux."""
    install(session, "tests", "fuzz")
    session.run("python", "-m", "tests.security.fuzz", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; never part of the gate. Arguments go to ``python -m benchmarks``."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Break things under load and account for every job: ten minutes on each broker.

    Arguments go to ``python -m tests.chaos``: --seed, --duration, --broker, --json, --publish.
    """
    install(session, "tests")
    session.run("python", "-m", "tests.chaos", *session.posargs)
