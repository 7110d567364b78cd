"""The grid of a sweep: configurations x budgets x seeds, read from a YAML file."""

from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sublora.config import Config, config_from_values, read_yaml, unknown_name, values_from_yaml
from sublora.errors import ConfigError

# Set by the sweep itself, for every run.
_OWN_KEYS = ("login.out_dir", "sublora.intrinsic_dim", "system.seed", "model.best_checkpoint_path")


@dataclass(frozen=True)
class Variant:
    """What is compared: a configuration at a budget. Its runs differ in their seed.

    configuration: its name in the grid file.
    d: number of coordinates.
    settings: what it sets, as `{"section.key": value}`.
    """

    configuration: str
    d: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The name that its runs begin with."""
        return f"sublora-d{self.d}-{self.configuration}"


@dataclass(frozen=True)
class Planned:
    """One run of the grid."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """The name of the run and of its folders."""
        return f"{self.variant.name}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A grid file, checked.

    base: settings of every run, as `{"section.key": value}`.
    work: folder of checkpoints, losses and logs.
    results: folder of what is kept.
    variants: configurations at their budgets.
    seeds: root seeds of every variant.
    source: corpus to prepare, "" where data.dataset_dir holds one.
    learning_rates: to choose from; none keeps the configured one.
    tuning_seed: root seed of the short runs that choose, not among `seeds`.
    tuning_iters: steps of such a run.
    """

    base: dict[str, Any]
    work: Path
    results: Path
    variants: list[Variant]
    seeds: list[int]
    source: str = ""
    learning_rates: list[float] = field(default_factory=list)
    tuning_seed: int = 0
    tuning_iters: int = 1

    def runs(self, only: str = "*") -> list[Planned]:
        """Return the runs whose name matches a glob: budget by budget, and in each of them seed by seed.

        So a sweep that is cut short has compared all configurations on fewer seeds, rather than some on all of them.

        Raises:
            ConfigError: none matches.
        """
        budgets = dict.fromkeys(variant.d for variant in self.variants)
        planned = [Planned(v, seed) for d in budgets for seed in self.seeds for v in self.variants if v.d == d]
        chosen = [run for run in planned if fnmatchcase(run.name, only)]
        if not chosen:
            raise ConfigError(f"no run is called {only!r}; the first is {planned[0].name!r}")
        return chosen

    def config(self, variant: Variant, seed: int, out_dir: Path, **settings: Any) -> Config:
        """Return the configuration of one run; `settings` are keys with "__" in place of the dot."""
        own = {
            "sublora.intrinsic_dim": variant.d,
            "system.seed": seed,
            "login.out_dir": str(out_dir),
            "model.best_checkpoint_path": str(out_dir),
        }
        extra = {name.replace("__", "."): value for name, value in settings.items()}
        return config_from_values(self.base | variant.settings | own | extra)


_FILE_KEYS = ("settings", "budgets", "configurations", *(f.name for f in fields(Grid) if f.name != "variants"))


def read_grid(path: Path) -> Grid:
    """Read a grid file; every configuration in it is built once, so that a mistake shows before anything runs.

    Args:
        path: YAML as in config/adaptive_experiments.yaml; `base` is a file beside it.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or missing, or a setting is not legal.
    """
    written = read_yaml(path, "grid file")
    if not isinstance(written, dict):
        raise ConfigError(f"{path} must hold keys, as in config/adaptive_experiments.yaml")
    for key in written:
        if key not in _FILE_KEYS:
            raise unknown_name(f"key {key!r} in {path}", str(key), _FILE_KEYS)
    if missing := [key for key in ("configurations", "budgets", "seeds", "work", "results") if not written.get(key)]:
        raise ConfigError(f"{path} lacks {missing[0]!r}")
    base = values_from_yaml(path.parent / written["base"]) if "base" in written else {}
    grid = Grid(
        base=base | _settings(written.get("settings") or {}, f"{path}, settings"),
        work=Path(written["work"]),
        results=Path(written["results"]),
        variants=_variants(written["configurations"], _budgets(written["budgets"], path), path),
        seeds=_numbers(written, "seeds", int),
        source=str(written.get("source", "")),
        learning_rates=_numbers(written, "learning_rates", float),
        tuning_seed=int(written.get("tuning_seed", 0)),
        tuning_iters=int(written.get("tuning_iters", 1)),
    )
    _check(grid, path)
    return grid


def _numbers(written: dict[str, Any], key: str, kind: type) -> list[Any]:
    values = written.get(key) or []
    if not isinstance(values, list) or not all(isinstance(v, int | kind) and not isinstance(v, bool) for v in values):
        raise ConfigError(f"{key} must be a list of numbers, not {values!r}")
    if len(set(values)) < len(values):
        raise ConfigError(f"{key} names a value twice: {values}")
    return [kind(v) for v in values]


def _settings(written: Any, where: str) -> dict[str, Any]:
    if not isinstance(written, dict):
        raise ConfigError(f"{where}: must hold section.key: value")
    if own := [key for key in written if key in _OWN_KEYS]:
        raise ConfigError(f"{where}: {own[0]} is set by the sweep itself")
    return written


def _budgets(written: Any, path: Path) -> dict[int, dict[str, Any]]:
    """Return the settings of every budget, in the order of the file: of a list, none."""
    settings = written if isinstance(written, dict) else {}
    numbers = _numbers({"budgets": list(settings) or written}, "budgets", int)
    return {d: _settings(settings.get(d) or {}, f"{path}, budget {d}") for d in numbers}


def _variants(configurations: Any, budgets: dict[int, dict[str, Any]], path: Path) -> list[Variant]:
    """Return every configuration at its budgets; a configuration's own settings go before those of a budget."""
    if not isinstance(configurations, dict):
        raise ConfigError(f"{path}: configurations must hold a name for every configuration")
    order = list(budgets)
    variants = []
    for name, written in configurations.items():
        settings = dict(_settings(written or {}, f"{path}, {name}"))
        own = settings.pop("budgets", None)
        chosen = order if own is None else _numbers({"budgets": own}, "budgets", int)
        variants += [Variant(str(name), d, budgets.get(d, {}) | settings) for d in chosen]
    # The budgets in the order of the file, and within each the configurations: a grid is worked off budget by budget.
    return sorted(variants, key=lambda v: order.index(v.d) if v.d in order else len(order))


def _check(grid: Grid, path: Path) -> None:
    if grid.learning_rates and grid.tuning_seed in grid.seeds:
        raise ConfigError(f"{path}: tuning_seed {grid.tuning_seed} must not be one of the seeds")
    if grid.tuning_iters < 1:
        raise ConfigError(f"{path}: tuning_iters must be at least 1")
    for variant in grid.variants:
        try:
            grid.config(variant, grid.seeds[0], grid.work)
        except ConfigError as error:
            raise ConfigError(f"{path}, {variant.configuration}: {error}") from error
