"""Loading rewards that are not built in: a function in a user's file, in a package, or in trl.rewards."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rewards.errors import InputError

_LONGEST_NAME: Final = 255  # longer text is no file's name


def load_foreign(source: str, parameters: Mapping[str, Any], folder: str = ".") -> Any:
    """Load a reward that is not built in.

    Args:
        source: `package.module:function` or `file.py:function`.
        parameters: keyword arguments of a maker, which is a class or a function that returns the reward. A source is
            called as a maker if `parameters` is not empty, if it is a class, or if it is a function of `trl.rewards`
            whose name begins with `get_`.
        folder: the folder that a relative path of a file is relative to.

    Raises:
        InputError: there is no such module, file or function, or the maker does not take the parameters.
    """
    module_name, _, attribute = source.rpartition(":")
    module = _module(module_name, Path(folder), source)
    made = getattr(module, attribute, None)
    if made is None:
        public = [one for one in vars(module) if not one.startswith("_") and callable(vars(module)[one])]
        raise InputError(f"{source}: {module_name} has no {attribute!r}{_hint(attribute, public)}")
    if not callable(made):
        raise InputError(f"{source}: {attribute!r} is {type(made).__name__}, not a function; name the reward function")
    maker = module_name == "trl.rewards" and attribute.startswith("get_")
    if parameters and _takes_completions(made):
        raise InputError(f"{source}: is a reward itself, which takes completions and no parameters; remove the "
                         "parameters, or name a class or function that takes them and returns the reward")  # fmt: skip
    if parameters or inspect.isclass(made) or maker:
        try:
            made = made(**parameters)
        except (Exception, SystemExit) as error:
            said = " ".join(str(error).split())[:160]
            raise InputError(f"{source}: does not take its parameters ({said}); correct them") from None
    if inspect.iscoroutinefunction(made):
        raise InputError(f"{source}: is asynchronous; make it a plain function")
    return made


def _takes_completions(made: Any) -> bool:
    try:
        return "completions" in inspect.signature(made).parameters
    except (TypeError, ValueError):  # a function in C, which has no signature
        return False


def needed_columns(reward: Any) -> tuple[str, ...]:
    """Return the keywords without a default that a reward takes, apart from `completions`."""
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):  # a function in C, which has no signature
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [one.name for one in parameters if one.kind in named and one.default is inspect.Parameter.empty]
    return tuple(name for name in needed if name != "completions")


def stated_range(reward: Any) -> tuple[float, float] | None:
    """Return the lowest and highest score, from a reward's attribute `range`; None without a valid range."""
    stated = getattr(reward, "range", None)
    try:
        low, high = map(float, stated)  # type: ignore[arg-type]  # any other type is the TypeError below
    except (TypeError, ValueError):
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low <= high else None


def find_file(name: str, folder: Path) -> Path:
    """Return the path of a file that a configuration names.

    A relative path is looked up in the configuration's folder first, then in the current directory.

    Raises:
        InputError: the file is in neither.
    """
    path = Path(name).expanduser()
    found = next((path for path in (folder / path, path) if path.is_file()), None)
    if found is None:
        raise InputError(
            f"{name}: no such file in {folder.resolve()} (the configuration's folder) or {Path.cwd()}; correct the path"
        )
    return found


def named_files(entries: Any, folder: Path) -> dict[str, Path]:
    """Return the files that a configuration's rewards name, by name: Python files, tables, files of a parameter.

    What a Python file imports is not among them. Neither is `package.module:function`, unless the module's file lies in
    the current directory.

    Args:
        entries: the list of rewards; see `rewards/compose.py`.
        folder: the configuration's folder.

    Raises:
        InputError: the file of a `file.py:function` does not exist.
    """
    if isinstance(entries, Mapping):
        entries = list(entries.values())
    if isinstance(entries, list | tuple):
        return {name: path for entry in entries for name, path in named_files(entry, folder).items()}
    if not isinstance(entries, str) or len(entries) > _LONGEST_NAME:
        return {}
    module, colon, _ = entries.rpartition(":")
    if module.endswith(".py"):
        return {module: find_file(module, folder)}
    name, folders = (module.replace(".", "/") + ".py", [Path()]) if colon else (entries, [folder, Path()])
    places = (one / Path(name).expanduser() for one in folders)
    found = next((path for path in places if path.is_file()), None)
    return {} if found is None else {name: found}


def _module(name: str, folder: Path, source: str) -> Any:
    try:
        if not name.endswith(".py"):
            if str(Path.cwd()) not in sys.path:
                sys.path.append(str(Path.cwd()))  # `python -m` would find the module there
            return importlib.import_module(name)
        path = find_file(name, folder)
        alias = f"reward_file_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(alias, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[alias] = module
        if str(path.parent.resolve()) not in sys.path:
            sys.path.append(str(path.parent.resolve()))  # so that it can import modules of its folder
        spec.loader.exec_module(module)
        return module
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{source}: cannot be loaded ({one_line(error)}); correct the module") from None


def one_line(error: BaseException) -> str:
    """Return an error's type, message and place on one line, with a remedy for a reward that may not start a process.

    The place is the innermost line of the user's own code. An error without one, such as a syntax error, has no place.
    """
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(Path(frame.filename)):
            said += f" ({Path(frame.filename).name}, line {frame.lineno})"
            break
    if isinstance(error, AssertionError) and "daemonic" in said:  # what Python says in a process as of `TimeLimited`
        said += (
            " - a reward with a time limit may not start processes; set timeout: 0 to run it in the trainer's process"
        )
    return said


def _is_users(file: Path) -> bool:
    """Whether a file of a traceback is neither of this package, nor installed, nor Python's own."""
    if not file.is_file() or "site-packages" in file.parts:
        return False
    return not any(file.is_relative_to(one) for one in (Path(__file__).parent, sysconfig.get_path("stdlib")))


def _hint(name: str, known: Sequence[str]) -> str:
    return f"; did you mean {nearest(name, known)!r}?" if known else ""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the name most like `name` among those that are known."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
