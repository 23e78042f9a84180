"""A cluster profile: a small TOML file that says what to ask of SLURM. It is data: nothing in it is ever run.

Every value is bounded and of a known alphabet before it reaches a script, so that no value can end its line there.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ssl_bench import find
from ssl_bench.errors import UserError, nearest

MAX_BYTES = 65536  # of a profile file
WORD = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}"  # no quote, blank, $, ;, # or line end
TEXTS = {
    "partition": f"{WORD}(,{WORD})*", "account": WORD, "qos": WORD, "gpu_type": WORD,
    "constraint": r"[A-Za-z0-9(\[][A-Za-z0-9._@+()\[\]&|,*-]{0,199}", "memory": r"[1-9][0-9]{0,6}[MG]",
}  # fmt: skip
NUMBERS = {
    "nodes": (1, 1024), "gpus": (0, 64), "cpus": (1, 1024), "signal_seconds": (5, 3600), "array_limit": (1, 1000),
    "max_requeues": (0, 1000),
}  # fmt: skip
MAX_MINUTES = 60 * 24 * 60
MODULE = re.compile(f"{WORD}(/{WORD})*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# Names that decide which code a job runs, or that the launcher sets. Modules and the user's own shell may set them.
RESERVED = re.compile(
    r"(LD|DYLD|PYTHON|BASH|SLURM|SBATCH|SRUN|SQUEUE|SCONTROL|SUBMITIT|GIT|GCONV)_?.*"
    r"|PATH|ENV|IFS|HOME|SHELL.*|PS[0-9]|PROMPT_COMMAND|CDPATH|GLOBIGNORE|.*PLUGIN.*|.*INJECTION.*|.*PRELOAD.*"
)
LOCAL = ("kind", "gpus", "cpus", "time", "array_limit", "signal_seconds", "environment")
EVALUATION = ("partition", "qos", "constraint", "gpus", "cpus", "memory", "time")


@dataclass(frozen=True)
class Profile:
    """One kind of job on one cluster. The comment of a field is its documentation (docs/cluster.md)."""

    name: str
    kind: Literal["slurm", "local"] = "slurm"  # local: this machine, through submitit's local executor
    partition: str = ""  # one, or several separated by commas
    account: str = ""  # who pays
    qos: str = ""  # quality of service
    constraint: str = ""  # node features, as sbatch --constraint reads them
    nodes: int = 1  # of a pretraining; evaluation always takes one
    gpus: int = 0  # per node, with one process each; 0: one CPU process per node
    gpu_type: str = ""  # for example a100, where the cluster has several
    cpus: int = 1  # per process; also the number of CPU threads
    memory: str = ""  # per node, for example 64G; empty: the partition's default
    time: str = "24:00:00"  # limit of one life of a job: HH:MM:SS or D-HH:MM:SS
    signal_seconds: int = 120  # this long before the limit the run writes its checkpoint and queues again
    array_limit: int = 64  # jobs of one array at the same time
    max_requeues: int = 20  # further lives of a job, whatever ended the life before
    modules: tuple[str, ...] = ()  # `module load` of each, in order
    environment: dict[str, str] = field(default_factory=dict)  # variables of the job
    evaluation: dict[str, Any] = field(default_factory=dict)  # other values for evaluation jobs and the report

    @property
    def minutes(self) -> int:
        """The time limit, rounded up."""
        return _minutes(self.time)

    @property
    def processes(self) -> int:
        """Per node."""
        return max(1, self.gpus)

    def for_stage(self, stage: str) -> Profile:
        """Evaluation and report: one process on one node, with the values of `[evaluation]`."""
        return (
            self if stage == "pretrain" else replace(self, **{"nodes": 1, "gpus": min(self.gpus, 1)} | self.evaluation)
        )


def names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(p.stem for p in (find.HOME / "slurm").glob("*.toml"))


def load(name: str) -> Profile:
    """A profile by its name in slurm/ or by the path of a .toml file; `UserError` where anything in it is wrong."""
    path = Path(name) if name.endswith(".toml") else find.HOME / "slurm" / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        hint = nearest(name, names())
        raise UserError(f"Unknown profile '{name}'. {hint} Your own: give the path of a .toml file (docs/cluster.md).")
    if not path.is_file():
        raise UserError(f"There is no profile file '{path}'.")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"Profile '{path}' is larger than {MAX_BYTES:,} bytes: it cannot be one.")
        values = tomllib.loads(data.decode())
    except OSError as error:
        raise UserError(f"Cannot read profile '{path}' ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"Profile '{path}' is not TOML: {str(error)[:200]}.") from error
    return check(path.stem, values, f"Profile '{path}': ")


def check(name: str, values: dict[str, Any], where: str = "") -> Profile:
    """The profile, with every key known, every value typed and bounded, and none without effect."""
    known = {f.name for f in fields(Profile)} - {"name"}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}unknown key '{key[:80]}'. {nearest(key[:80], known)}")
        if key == "evaluation":
            _check_evaluation(value, where)
        elif key == "environment":
            _check_environment(value, where)
        else:
            _check_value(key, value, where)
    if not re.fullmatch(WORD, name):
        raise UserError(f"{where}name the file with letters, digits, dots, dashes and underscores only.")
    typed: dict[str, Any] = {k: tuple(v) if k == "modules" else v for k, v in values.items()}
    profile = Profile(name, **typed)
    for stage in ("pretrain", "evaluate"):
        one = profile.for_stage(stage)
        if one.minutes * 60 <= one.signal_seconds:
            raise UserError(f"{where}signal_seconds={one.signal_seconds} must be less than the time limit {one.time}.")
    useless = sorted(set(values) - set(LOCAL)) if profile.kind == "local" else []
    if useless:
        raise UserError(f"{where}'{useless[0]}' has no effect with kind = \"local\": remove it.")
    if profile.gpu_type and not profile.gpus:
        raise UserError(f"{where}'gpu_type' has no effect while gpus is 0: set gpus, or remove it.")
    return profile


def _check_value(key: str, value: Any, where: str) -> None:
    if key == "kind":
        if value not in ("slurm", "local"):
            raise UserError(f'{where}kind={_shown(value)} must be "slurm" or "local".')
    elif key in NUMBERS:
        low, high = NUMBERS[key]
        if type(value) is not int or not low <= value <= high:
            raise UserError(f"{where}{key}={_shown(value)} must be a whole number from {low} to {high}.")
    elif key == "time":
        if not isinstance(value, str) or not 0 < _minutes(value) <= MAX_MINUTES:
            raise UserError(f'{where}time={_shown(value)} must be "HH:MM:SS" or "D-HH:MM:SS", at most 60 days.')
    elif key == "modules":
        if not isinstance(value, list) or len(value) > 32:
            raise UserError(f"{where}modules must be a list of at most 32 names.")
        for module in value:
            if not isinstance(module, str) or len(module) > 200 or not MODULE.fullmatch(module):
                raise UserError(f'{where}modules: {_shown(module)} is not a module name such as "cuda/12.4".')
    elif not isinstance(value, str) or not re.fullmatch(TEXTS[key], value):
        example = {"memory": "64G", "partition": "gpu", "constraint": "a100&nvlink"}.get(key, "my-group")
        raise UserError(f'{where}{key}={_shown(value)} must be text such as "{example}".')


def _check_evaluation(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{where}evaluation must be a table: [evaluation].")
    for key, entry in value.items():
        if key not in EVALUATION:
            raise UserError(f"{where}unknown key 'evaluation.{key[:80]}'. {nearest(key[:80], EVALUATION)}")
        _check_value(key, entry, f"{where}evaluation.")
    if value.get("gpus", 0) > 1:
        raise UserError(f"{where}evaluation.gpus={value['gpus']}: evaluation uses one GPU at most.")


def _check_environment(value: Any, where: str) -> None:
    if not isinstance(value, dict) or len(value) > 64:
        raise UserError(f"{where}environment must be a table of at most 64 variables.")
    for key, entry in value.items():
        if not VARIABLE.fullmatch(key):
            raise UserError(f"{where}environment: {_shown(key)} is not a name of a variable.")
        if RESERVED.fullmatch(key.upper()):
            raise UserError(
                f"{where}environment.{key} decides which code a job runs and cannot be set here: "
                "set it in your shell, which the job inherits, or load a module."
            )
        if not isinstance(entry, str) or len(entry) > 4096 or not entry.isprintable():
            raise UserError(f"{where}environment.{key}={_shown(entry)} must be one line of text.")


def _minutes(text: str) -> int:
    """Minutes of HH:MM:SS or D-HH:MM:SS, rounded up; 0 where it is neither."""
    match = re.fullmatch(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])", text)
    if not match:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + (seconds > 0)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # Python prints no integer of more than 4,300 digits
        return "(too long to show)"


def to_dict(profile: Profile) -> dict[str, Any]:
    """What is set, as in the file: `check(name, to_dict(p))` is `p`."""
    default = asdict(Profile(profile.name))
    found = {k: v for k, v in asdict(profile).items() if k != "name" and v != default[k]}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}
