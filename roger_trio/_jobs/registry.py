"""Which job class answers to which name. Names from the wire are looked up, never imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from .._errors import ConfigError, UnknownJob

if TYPE_CHECKING:  # Job registers its subclasses here
    from .job import Job


class Registry:
    """Job classes by name and alias."""

    def __init__(self) -> None:
        self._by_name: dict[str, type[Job]] = {}

    def __iter__(self) -> Iterator[type[Job]]:
        """Iterate over the registered classes, each once, in order of registration."""
        return iter(dict.fromkeys(self._by_name.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def add(self, job_type: type[Job]) -> None:
        """Let a job class answer to its name and its aliases.

        The same module and qualified name again replaces the former class (a module reloaded, a
        class local to a function that is called twice).

        Args:
            job_type: The class; its options carry the names.

        Raises:
            ConfigError: Another class has one of the names. Nothing was registered.
        """
        here = origin(job_type)
        names = (job_type.options.name, *job_type.options.aliases)
        for name in names:
            other = self._by_name.get(name)
            if other is not None and origin(other) != here:
                raise ConfigError(
                    f"job {job_type.options.name}: expected a name nobody else has, got {name!r} "
                    f"for {here}, which is taken by {origin(other)}"
                )
        replaced = {self._by_name[name] for name in names if name in self._by_name}
        if replaced:  # its aliases go with it
            kept = {name: old for name, old in self._by_name.items() if old not in replaced}
            self._by_name = kept
        for name in names:
            self._by_name[name] = job_type

    def get(self, name: str) -> type[Job]:
        """Return the class with this name or alias. Never imports anything.

        Raises:
            UnknownJob: No class in this process has it.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownJob(name) from None

    def find(self, text: str) -> type[Job]:
        """Return the class a person means: by name, alias, or class name if only one has it.

        Args:
            text: ``app:ResizeImage``, an alias, or ``ResizeImage``.

        Raises:
            UnknownJob: No class in this process has it.
            ConfigError: Several have; the message lists their full names.
        """
        if text in self._by_name:
            return self._by_name[text]
        found = [job for job in self if text in (job.__qualname__, job.__name__)]
        if not found:
            raise UnknownJob(text)
        if len(found) > 1:
            names = ", ".join(sorted(job.options.name for job in found))
            raise ConfigError(f"job: expected a name that only one job has, got {text!r}: {names}")
        return found[0]


registry: Final = Registry()
"""The registry of this process."""


def origin(job_type: type[Job]) -> str:
    """Return where a class was written, as ``module:qualname``."""
    return f"{module_name(job_type.__module__)}:{job_type.__qualname__}"


def module_name(module: str) -> str:
    """Return the name under which others import the module.

    A job defined in the program that was started (``python app.py``, ``python -m app``) is named
    like the same job imported by ``roger serve app:config``, so ``__main__`` becomes ``app``.

    Args:
        module: A class's or function's ``__module__``.
    """
    if module not in ("__main__", "__mp_main__"):  # the latter in worker processes
        return module
    main = sys.modules[module]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return PurePath(file).stem if file else module  # no file: an interactive session
