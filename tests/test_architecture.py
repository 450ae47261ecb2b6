"""Checks every import of the project against the table of allowed imports."""

import ast
import graphlib
import importlib
import inspect
import pickle
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hip_mri import errors
from tests.processes import run_python

ROOT = Path(__file__).parents[1]
PACKAGES = ("hip_mri", "tasks", "flows", "deployments")
FOUNDATION = (
    "hip_mri.addresses",
    "hip_mri.config",
    "hip_mri.disk_errors",
    "hip_mri.errors",
    "hip_mri.hashes",
    "hip_mri.locks",
    "hip_mri.proxies",
    "hip_mri.run_files",
    "hip_mri.storage",
    "hip_mri.workspace",
)
PREFECT = ("prefect",)
NETWORKS = ("keras", "tensorflow", "tensorflow_hub", "openvino", "torch")
WEB = ("fastapi", "starlette", "uvicorn", "python_multipart")
VAGUE_NAMES = {"util", "utils", "utility", "utilities", "common", "helper", "helpers", "misc"}


@dataclass(frozen=True)
class Rule:
    """What the modules below a name may import.

    Attributes:
        project: Allowed of this project, with everything below.
        outside: Allowed of other distributions; `None` allows all but `never`.
        never: Refused of other distributions.
    """

    project: tuple[str, ...] = ()
    outside: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()


LAYERS = (
    ("images",),
    ("synthetic",),
    ("sources",),
    ("dataset",),
    ("grouping",),
    ("models",),
    ("evaluation",),
    ("monitoring", "registry"),
    ("promotion", "serving", "model_comparison"),
)
"""Packages of the library from the lowest to the highest; those side by side may not import each other."""

WITH_NETWORKS = ("models", "monitoring", "promotion", "serving")
"""Packages that may import Keras, TensorFlow or OpenVINO; of `evaluation`, the module `explain` may too."""


def list_rules() -> dict[str, Rule]:
    rules = {
        "hip_mri": Rule(outside=()),  # its own __init__.py
        **dict.fromkeys(FOUNDATION, Rule(FOUNDATION, outside=("pydantic", "pydantic_settings"))),
        "tasks": Rule(("hip_mri", "tasks"), outside=PREFECT),
        "flows": Rule(("tasks", "flows", "hip_mri.config"), outside=PREFECT),
        "deployments": Rule(("flows", "deployments", *FOUNDATION), outside=PREFECT),
    }
    below = FOUNDATION
    for layer in LAYERS:
        names = [f"hip_mri.{name}" for name in layer]
        for name, package in zip(names, layer, strict=True):
            never = PREFECT + WEB if package in WITH_NETWORKS else PREFECT + WEB + NETWORKS
            rules[name] = Rule((*below, name), never=never)
        below = (*below, *names)
    rules["hip_mri.evaluation.explain"] = Rule(rules["hip_mri.evaluation"].project, never=PREFECT + WEB)
    # The web service alone knows HTTP; what it scores with is used by a flow as well.
    rules["hip_mri.serving.web"] = Rule(rules["hip_mri.serving"].project, never=PREFECT + NETWORKS)
    return rules


RULES = list_rules()
"""The longest name that a module begins with counts."""

MAX_MODULES = 14
"""Most Python files in a folder, `__init__.py` included."""

DECISIONS = {
    "flows.cli.arguments": ("hip_mri.errors", "pydantic", "pydantic_settings", "yaml"),
    "flows.cli.base_commands": ("hip_mri.errors", "hip_mri.workspace.Workspace", "pydantic", "pydantic_settings"),
    "flows.cli.commands": (
        "hip_mri.dataset.pseudonyms.look_up_names",
        "hip_mri.errors",
        "hip_mri.evaluation.verify",
        "hip_mri.model_comparison.verify",
        "hip_mri.promotion",
        "hip_mri.registry",
        "hip_mri.serving.prediction_names.look_up_prediction_names",
        "hip_mri.serving.web.start.start_service",
        "hip_mri.synthetic.demo.write_demo_zip",
        "hip_mri.workspace.Workspace",
        "pydantic",
        "pydantic_settings",
    ),
    "flows.cli.model_commands": (
        "hip_mri.addresses.LocalName",
        "hip_mri.errors",
        "hip_mri.promotion",
        "hip_mri.registry",
        "hip_mri.serving.export",
        "hip_mri.serving.served_model.find_model",
        "hip_mri.workspace.Workspace",
        "pydantic",
        "pydantic_settings",
    ),
    "flows.cli.flow_runs": (
        "hip_mri.sources.fetch.check_source",
        "hip_mri.dataset.identities.check_patient_tables",
        "hip_mri.sources.tables.corrections.read_corrections",
        "hip_mri.models.backbones.weights.find_weights_file",
        "hip_mri.errors",
        "hip_mri.models.keras_settings.choose_backend",
        "hip_mri.models.keras_settings.import_keras",
        "hip_mri.registry.tracking.check_tracking",
        "hip_mri.workspace.Workspace",
        "httpx",
    ),
    "flows.cli.main": ("hip_mri.disk_errors.is_unrecoverable", "hip_mri.errors"),
    "flows.runtime.network_checks": ("hip_mri.errors", "hip_mri.proxies", "httpx"),
    "flows.runtime.prefect_faults": ("hip_mri.errors", "hip_mri.proxies", "httpx"),
    "flows.runtime.prefect_server": ("hip_mri.errors",),
    "flows.runtime.prefect_settings": ("hip_mri.addresses.strip_credentials", "hip_mri.errors", "pydantic"),
    "flows.runtime.server_process": ("uvicorn",),
    "flows.serve": ("hip_mri.addresses.strip_credentials", "hip_mri.errors", "httpx", "yaml"),
    "flows.compare": (
        "hip_mri.model_comparison.candidates",
        "hip_mri.model_comparison.evaluated_candidate",
        "hip_mri.workspace.Workspace",
    ),
    "flows.retrain": (
        "hip_mri.promotion.comparison_records.ComparedRetraining",
        "hip_mri.promotion.conclusion.Answer",
        "hip_mri.workspace.Workspace",
    ),
    "flows.stages": (
        "hip_mri.dataset.deliveries.Delivery",
        "hip_mri.grouping.groups.GroupReport",
        "hip_mri.dataset.ingest.IngestReport",
        "hip_mri.grouping.split.SplitReport",
        "hip_mri.models.features.FeatureSet",
        "hip_mri.models.backbones.weights.Weights",
        "hip_mri.run_files",
        "hip_mri.workspace.Workspace",
    ),
    "tasks.approval": ("pydantic",),
    "tasks.task_runners.dask_cluster": ("dask", "distributed", "prefect_dask"),
    "tasks.task_runners.dask_checks": ("distributed",),
    "tasks.task_runners.dask_log": ("distributed",),
    "tasks.task_runners.dask_workers": ("distributed",),
    "tasks.progress": ("rich",),
    "deployments.dask_certificate": ("distributed",),
    "deployments.native": ("pydantic_settings",),
    "deployments.register": ("yaml",),
    "deployments.supervision": ("psutil", "supervisor"),
    "deployments.team": ("httpx",),
}
"""Beyond the table. The command `hip-mri` reads settings, calls library functions that are not part of a flow, and
prints errors in one line. It checks the source before Prefect takes its seconds to start, likewise that another run
holds the workspace, and that MLflow is installed where runs are logged to it; and it loads Keras beside the start of
a server of the run's own where a flow will surely need it, and reads the choice of its backend. `verify` reads from a
saved network, without Keras, which settings of Keras it was built with.
`serve` scores without Prefect. That a server is gone shows in an error of
httpx, Prefect's client. Proxies and certificates that httpx would fail on, and a server that does not start or
answer, are errors of the project's tree, as are settings of Prefect that it refuses. The process of a server of a
run's own hands Prefect's application to Uvicorn itself, so that it can end with the run. Progress is drawn by Rich.
Dask, an extra, is known to the modules on clusters alone, which are loaded where a run asks for one; and to what
makes its certificates. Stages hand the library's records on and name them in their signatures. A form in the UI is a
pydantic model. `deployments` knows the foundation: its errors and its atomic private files. Its programs are run by
supervisord, their health checks answer over HTTP."""


@dataclass(frozen=True)
class Module:
    name: str
    file: Path

    @property
    def package(self) -> str:
        return self.name if self.file.name == "__init__.py" else self.name.rpartition(".")[0]


def list_modules(root: Path = ROOT) -> list[Module]:
    modules = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            modules.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), file))
    return modules


def find_imports(source: str, package: str) -> Iterator[str]:
    """Full names of everything imported: at the top, inside functions, under TYPE_CHECKING, or by `import_module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def begins_with(name: str, beginnings: tuple[str, ...]) -> bool:
    return any(name == beginning or name.startswith(beginning + ".") for beginning in beginnings)


def find_rule(module: str) -> Rule | None:
    if module == "hip_mri":
        return RULES["hip_mri"]
    matches = [name for name in RULES if name != "hip_mri" and begins_with(module, (name,))]
    return RULES[max(matches, key=len)] if matches else None


def find_violations(module: str, package: str, source: str) -> list[str]:
    rule = find_rule(module)
    if rule is None:
        return [f"{module}: has no place in the table"]
    violations = []
    for name in find_imports(source, package):
        top = name.split(".")[0]
        if begins_with(name, DECISIONS.get(module, ())) or top in sys.stdlib_module_names:
            continue
        if top in PACKAGES:
            allowed = begins_with(name, rule.project)
        else:
            allowed = top not in rule.never and (rule.outside is None or top in rule.outside)
        if not allowed:
            violations.append(f"{module}: may not import {name}")
    return violations


@pytest.mark.parametrize("module", list_modules(), ids=lambda module: module.name)
def test_each_module_imports_only_what_the_table_allows(module):
    assert find_violations(module.name, module.package, module.file.read_text()) == []


def list_plain_imports(source: str) -> list[str]:
    """What of Keras and TensorFlow is imported when the code runs; imports for type checkers are left out."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name for node in statements for name in find_imports(ast.unparse(node), "x")]
    return [name for name in names if begins_with(name, ("keras", "tensorflow"))]


@pytest.mark.parametrize("module", list_modules(), ids=lambda module: module.name)
def test_keras_comes_with_the_settings_of_the_pipeline(module):
    """`hip_mri.models.keras_settings.import_keras` alone imports it, so that no `keras.json` is read."""
    allowed = module.name in ("hip_mri.models.fitting", "hip_mri.serving.export.formats")
    found = list_plain_imports(module.file.read_text())
    assert {name.partition(".")[0] for name in found} == (
        {"tensorflow"} if allowed else set()
    )  # which Keras has loaded


def test_a_plain_import_of_keras_is_found():
    source = "if TYPE_CHECKING:\n    import keras\ndef f():\n    from keras import layers\n    import keras.ops\n"
    assert list_plain_imports(source) == ["keras.layers", "keras.ops"]


def test_decisions_are_still_needed():
    """Every exception in the list is needed."""
    imports = {module.name: list(find_imports(module.file.read_text(), module.package)) for module in list_modules()}
    unused = [
        (module, allowed)
        for module, names in DECISIONS.items()
        for allowed in names
        if not any(begins_with(name, (allowed,)) for name in imports.get(module, []))
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("module", "source", "offender"),
    [
        ("hip_mri.config", "import numpy", "numpy"),
        ("hip_mri.workspace", "from hip_mri.dataset import ingest", "hip_mri.dataset.ingest"),
        ("hip_mri.grouping.split", "def f():\n    import keras", "keras"),
        ("hip_mri.grouping.split", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import keras", "keras"),
        ("hip_mri.grouping.split", "import importlib\nimportlib.import_module('tensorflow.keras')", "tensorflow.keras"),
        ("hip_mri.grouping.split", "from ..models import head", "hip_mri.models.head"),
        ("hip_mri.grouping.split", "from hip_mri import models", "hip_mri.models"),
        ("hip_mri.grouping.split", "from hip_mri import *", "hip_mri.*"),
        ("hip_mri.images.burned_in_text", "from hip_mri.dataset import manifest", "hip_mri.dataset.manifest"),
        ("hip_mri.models.head", "async def f():\n    from prefect import task", "prefect.task"),
        ("hip_mri.evaluation.run", "import keras", "keras"),
        ("hip_mri.monitoring.drift", "from hip_mri.registry import versions", "hip_mri.registry.versions"),
        ("hip_mri.serving.predictions", "from hip_mri.promotion import gate", "hip_mri.promotion.gate"),
        ("hip_mri.evaluation.explain", "from tasks import dataset", "tasks.dataset"),
        ("hip_mri.serving.scorer", "from fastapi import FastAPI", "fastapi.FastAPI"),
        ("hip_mri.serving.web.app", "import keras", "keras"),
        ("hip_mri.promotion.gate", "import prefect.artifacts", "prefect.artifacts"),
        ("tasks.dataset", "from flows import pipeline", "flows.pipeline"),
        ("tasks.dataset", "import numpy as np", "numpy"),
        (
            "flows.pipeline",
            "from hip_mri.grouping.split import split_manifest",
            "hip_mri.grouping.split.split_manifest",
        ),
        ("flows.pipeline", "from hip_mri import errors", "hip_mri.errors"),
        ("deployments.serve", "import tasks.dataset", "tasks.dataset"),
    ],
)
def test_forbidden_imports_of_every_form_are_found(module, source, offender):
    assert find_violations(module, module.rpartition(".")[0], source) == [f"{module}: may not import {offender}"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("hip_mri.config", "import os\nfrom pydantic import Field\nfrom pydantic_settings import BaseSettings"),
        ("hip_mri.grouping.split", "from . import png\nfrom hip_mri.config import LABELS\nimport cv2, pandas"),
        ("hip_mri.models.head", "import keras\nfrom hip_mri.dataset.preprocessing import read_images"),
        ("hip_mri.evaluation.explain", "import keras\nfrom hip_mri.models import head"),
        ("hip_mri.serving.predictions", "from hip_mri.monitoring import novelty"),
        ("hip_mri.promotion.gate", "from hip_mri.evaluation import metrics"),
        ("hip_mri.serving.web.app", "from fastapi import FastAPI\nfrom hip_mri.serving import scorer"),
        ("flows.pipeline", "from hip_mri.config import PipelineConfig\nfrom tasks.dataset import ingest_images"),
        ("flows.cli.arguments", "from hip_mri.errors import HipMriError\nimport yaml"),
    ],
)
def test_allowed_imports_pass(module, source):
    assert find_violations(module, module.rpartition(".")[0], source) == []


def test_a_new_place_needs_a_line_in_the_table():
    assert find_violations("hip_mri.extras", "hip_mri", "") == ["hip_mri.extras: has no place in the table"]


def test_no_modules_import_each_other_in_a_circle():
    modules = {module.name: module for module in list_modules() if module.file.name != "__init__.py"}
    graph = {}
    for name, module in modules.items():
        imports = find_imports(module.file.read_text(), module.package)
        graph[name] = {part for full in imports for part in (full, full.rpartition(".")[0]) if part in modules} - {name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_folders_are_small():
    sizes = Counter(module.file.parent.relative_to(ROOT) for module in list_modules())
    assert {str(folder): size for folder, size in sizes.items() if size > MAX_MODULES} == {}


def test_every_package_is_checked():
    assert {module.name.split(".")[0] for module in list_modules()} == set(PACKAGES)
    assert {"hip_mri.grouping.split", "hip_mri.config", "tasks.dataset", "flows.pipeline"} <= {
        module.name for module in list_modules()
    }


def test_nothing_has_a_name_that_says_nothing():
    names = {part.strip("_") for module in list_modules() for part in module.name.split(".")}
    folders = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_dir()}
    assert not (names | folders) & VAGUE_NAMES


def run_code(code: str) -> str:
    """Standard output of a new process."""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", FOUNDATION)
def test_the_foundation_loads_neither_prefect_nor_a_network(module):
    loaded = run_code(f"import {module}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))").split()
    heavy = {*PREFECT, *NETWORKS, "numpy", "pandas", "cv2", "tasks", "flows"}
    assert not set(loaded) & heavy


def test_the_dataset_package_loads_neither_prefect_nor_a_network():
    modules = ", ".join(module.name for module in list_modules() if module.name.startswith("hip_mri.dataset"))
    loaded = run_code(f"import {modules}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))").split()
    assert "cv2" in loaded
    assert not set(loaded) & {*PREFECT, *NETWORKS, "tasks", "flows"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_those_of_the_project(package):
    """Their names are common words, and the folders of the tests have the same."""
    assert importlib.import_module(package).__file__ == str(ROOT / package / "__init__.py")


# The tree of errors


def list_errors() -> dict[str, type[Exception]]:
    return {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == errors.__name__
    }


def test_every_error_explains_itself_and_is_one_of_ours():
    for kind in list_errors().values():
        assert issubclass(kind, errors.HipMriError)
        assert inspect.getdoc(kind)


def test_an_image_error_carries_its_reason():
    error = errors.ImageError("not_an_image", "the content is text")
    traveled = pickle.loads(pickle.dumps(error))
    for one in (error, traveled):
        assert (one.reason, str(one)) == ("not_an_image", "the content is text")


@pytest.mark.parametrize(
    ("count", "most", "text"),
    [(0, 3, ""), (1, 3, "0"), (3, 3, "0, 1, 2"), (4, 3, "0, 1, 2 and 1 more"), (17, 3, "0, 1, 2 and 14 more")],
)
def test_the_first_offenders_are_named_and_the_rest_counted(count, most, text):
    assert errors.list_offenders([str(number) for number in range(count)], most) == text
