"""Options, settings files, messages and exit codes."""

import errno
import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from flows.cli.arguments import read_command
from flows.cli.base_commands import FlowCommand
from flows.cli.commands import HipMri, Predict, Retrain, Run
from flows.cli.main import run_command
from hip_mri.config import PipelineConfig, Settings
from hip_mri.config.base import list_settings
from hip_mri.errors import SettingsError
from hip_mri.models import keras_settings
from hip_mri.workspace import Workspace
from tests.flows.servers import answer_json
from tests.processes import run_python
from tests.sources.remote.web_server import serve
from tests.test_config import FORMER_NAMES, look_up

FLOWS = {"run": Run, "predict": Predict, "retrain": Retrain}
FILES = {"run": "pipeline", "predict": "predict", "retrain": "retrain"}


def read_settings(*words: str, command: str = "run"):
    """The settings that the flow of a command receives."""
    read = read_command([command, *words], HipMri)
    assert isinstance(read, FlowCommand)
    return read.settings.model_validate(read.model_dump(exclude={"config"}))


def list_options(command: type[BaseModel]) -> list[str]:
    return ["--" + name.replace("_", "-") for name in list_settings(command)]


@pytest.mark.parametrize(
    "words",
    [
        ["--data.class-names", '{"healthy": "normal", "Bone_Lesion": "osseous_lesion"}'],
        ["--data.class-names", "healthy=normal", "--data.class-names", "Bone_Lesion=osseous_lesion"],
        ["--config", "{file}"],
    ],
)
def test_class_names_are_given_as_json_as_pairs_or_in_a_file(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("data: {class_names: {healthy: normal, Bone_Lesion: osseous_lesion}}\n")
    config = read_settings(*[str(file) if word == "{file}" else word for word in words])
    assert isinstance(config, PipelineConfig)
    assert config.data.class_names == {"healthy": "normal", "Bone_Lesion": "osseous_lesion"}


@pytest.mark.parametrize("names", ['{"healthy": "fine"}', '{"normal": "osseous_lesion"}'])
def test_class_names_that_stand_for_no_class_or_two_are_refused(names: str) -> None:
    with pytest.raises(SettingsError, match=r"data\.class_names"):
        read_settings("--data.class-names", names)


def test_the_form_in_the_ui_shows_class_names_with_their_choices() -> None:
    field = PipelineConfig.model_json_schema()["$defs"]["DataSettings"]["properties"]["class_names"]
    assert field["additionalProperties"]["enum"] == ["normal", "osseous_lesion"]


def test_no_options_are_the_defaults() -> None:
    assert read_settings() == PipelineConfig()


def test_dotted_names_set_fields_with_dashes_and_underscores_alike() -> None:
    config = read_settings(
        "--source",
        "x.zip",
        "--model.backbone",
        "ResNet50",
        "--training.batch_size=7",
        "--training.learning-rate",
        "1e-3",
        "--training.fine-tune.epochs",
        "2",
        "--training.horizontal_flip",
        "false",
        "--workspace",
        "some_where",
    )
    assert config.source == "x.zip"
    assert config.model.backbone == "ResNet50"
    assert (config.training.batch_size, config.training.learning_rate) == (7, 1e-3)
    assert config.training.fine_tune.epochs == 2
    assert config.training.horizontal_flip is False
    assert config.workspace == Path("some_where")


def test_file_gives_way_to_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 3\ntraining: {epochs: 4, batch_size: 5}\n")
    config = read_settings("--config", str(file), "--training.epochs", "6")
    assert (config.seed, config.training.epochs, config.training.batch_size) == (3, 6, 5)


def test_written_settings_can_be_read_again(tmp_path: Path) -> None:
    import yaml

    config = read_settings("--source", "x.zip", "--seed", "9", "--data.val-fraction", "0.2")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert read_settings("--config", str(file)) == config


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trainin.epochs", "3"], r"--trainin\.epochs 3"),
        (["--training.epochs", "0"], r"training\.epochs: .* 1 \(received '0'\)"),
        (["--model.backbone", "VGG"], r"model\.backbone: .*'ResNet50', 'ResNet101', "),
        (["--source-sha256", "12"], r"source_sha256: "),
        (["--source-sha256", "a" * 64], r"source_sha256 .*without a source"),
        (["--config", "/no/such.yaml"], r"config: /no/such\.yaml"),
    ],
)
def test_bad_options_are_named(arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_settings(*arguments)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"(?s)seed: .*training.epochs: ") as error:
        read_settings("--seed", "-1", "--training.epochs", "many")
    assert len(str(error.value).splitlines()) == 2


def test_an_address_with_a_token_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match=r"^source: .*env:NAME") as error:
        read_settings("--source", "https://example.org/hip.zip?X-Amz-Signature=7f3a9c")
    assert "7f3a9c" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ("--sorce", "{}"),
        ("--model.weights", "{}"),
        ("--seed", "{}"),
        ("--workspace={}",),
        ("--tracking.mlflow-uri", "{}"),
    ],
    ids=str,
)
def test_an_address_in_another_place_is_not_repeated_either(words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings(*[word.format("https://anna:7f3a9c@example.org") for word in words])
    assert "7f3a9c" not in str(error.value)


def test_a_broken_settings_file_is_placed_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("seed: 1\nsource: 'https://anna:7f3a9c@example.org\n")
    with pytest.raises(SettingsError, match=r"not YAML .*line 3") as error:
        read_settings("--config", str(file))
    assert "7f3a9c" not in str(error.value)


@pytest.mark.parametrize("option", ["--source", "--workspace", "--data.patients-file", "--model.weights", "--config"])
def test_a_path_that_is_not_utf_8_is_an_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([option, "/data/M\udcfcller"], [f"{option}=/data/M\udcfcller"]):
        assert run_command(["run", *arguments]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {option}: the value has bytes that are not UTF-8")
        assert len(message.splitlines()) == 1


def test_settings_file_must_hold_names_and_values(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("{")
    with pytest.raises(SettingsError, match=r"list\.yaml"):
        read_settings("--config", str(tmp_path / "list.yaml"))
    with pytest.raises(SettingsError, match=r"broken\.yaml.* YAML"):
        read_settings("--config", str(tmp_path / "broken.yaml"))


@pytest.mark.parametrize(
    "content",
    ["training: 2024-13-45", "seed: !!int many", "seed: !!bool perhaps", "seed: !!timestamp now", "[" * 5000],
    ids=["a date that is none", "a number that is none", "no truth value", "no time", "too deep"],
)
def test_what_yaml_itself_cannot_read_is_an_error(content: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    assert run_command(["run", "--config", str(file)]) == 2
    assert f"error: config: {file} is not YAML" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "predict"])
def test_an_unknown_home_folder_is_an_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([command, "--workspace", "~no-such-user/x"]) == 1
    assert capsys.readouterr().err.startswith("error: workspace: '~no-such-user/x' ")


@pytest.mark.parametrize("command", ["run", "predict"])
@pytest.mark.parametrize("backend", ["theano", "jax"])
def test_a_backend_of_keras_that_cannot_be_used_is_an_error_at_once(
    command: str, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keras_settings, "_is_installed", lambda module: False)
    monkeypatch.setenv("HIP_MRI_KERAS_BACKEND", backend)
    assert run_command([command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: HIP_MRI_KERAS_BACKEND: ")
    assert backend in line


def test_a_missing_source_is_an_error_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--source", "/no/such.zip"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: source: ")
    assert output.err.endswith("It was given as '/no/such.zip'.\n")
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["run", "retrain"])
@pytest.mark.parametrize("option", ["--data.patients-file", "--data.corrections-file", "--model.weights"])
def test_a_missing_file_is_an_error_before_prefect_loads(command, option, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("flows.cli.flow_runs.run_flow", lambda *_, **__: pytest.fail("it was started"))
    monkeypatch.chdir(tmp_path)
    Path("incoming").mkdir()
    assert run_command([command, "--workspace", "w", option, "/no/such.csv"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {option[2:].replace('-', '_')}: ")


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize("command", FLOWS)
def test_help_lists_every_setting_with_its_default_in_the_width_of_the_terminal(command: str, columns: int) -> None:
    done = run_python(f"flows/{FILES[command]}.py", "--help", environment=os.environ | {"COLUMNS": str(columns)})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: hip-mri {command} ")
    assert (FLOWS[command].__doc__ or "").split()[:5] == done.stdout.splitlines()[2].split()[:5]
    assert [option for option in list_options(FLOWS[command]) if f"{option} " not in done.stdout] == []
    assert "(default: all)" in " ".join(done.stdout.split())  # of data.slices
    assert max(len(line) for line in done.stdout.splitlines() if "{" not in line) <= columns
    assert not any(former.replace("_", "-") in done.stdout for _, former, *_ in FORMER_NAMES)


def test_help_loads_neither_prefect_nor_a_network() -> None:
    code = (
        "import sys; from flows.cli.main import run_command\n"
        "try: run_command(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(set(sys.modules) & {'prefect', 'tensorflow', 'keras', 'numpy', 'pandas'})"
    )
    assert run_python("-c", code).stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("words", [["flows/predict.py"], ["-m", "flows.predict"]], ids=" ".join)
def test_the_file_and_the_module_of_a_flow_are_the_command(words: list[str]) -> None:
    done = run_python(*words, "--source", "/no/such.zip")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: source: ")
    assert run_python(*words, "--sorce", "x").returncode == 2


@pytest.mark.parametrize(("kind", "former", "present", "value"), FORMER_NAMES, ids=[row[1] for row in FORMER_NAMES])
def test_a_former_option_is_accepted_with_a_warning(kind, former, present, value, tmp_path, caplog) -> None:
    command = next(name for name, flow in FLOWS.items() if issubclass(flow, kind))
    for option in (f"--{former}", f"--{former.replace('_', '-')}"):
        caplog.clear()
        assert look_up(read_settings(option, str(value), command=command), present) == value
        (record,) = caplog.records
        assert f"--{present.replace('_', '-')}." in record.getMessage()
    file = tmp_path / "settings.yaml"
    group, _, name = former.rpartition(".")
    file.write_text(f"{group}: {{{name}: {value}}}\n")
    caplog.clear()
    assert look_up(read_settings("--config", str(file), command=command), present) == value
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("command", "held"), [("run", ""), ("predict", "serving")])
def test_fault_59_a_second_run_ends_before_prefect_starts(command, held, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("flows.cli.flow_runs.run_flow", lambda *_, **__: pytest.fail("it was started"))
    with Workspace(tmp_path / held).hold():
        assert run_command([command, "--workspace", str(tmp_path)]) == 1
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err


def test_fault_59_training_and_scoring_do_not_wait_for_each_other(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("flows.cli.flow_runs.run_flow", lambda *_, **__: "done")
    with Workspace(tmp_path).hold():
        assert run_command(["predict", "--workspace", str(tmp_path)]) == 0
    with Workspace(tmp_path / "serving").hold():
        assert run_command(["run", "--workspace", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "done\ndone\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_fault_56_and_57_a_disk_that_refuses_elsewhere_is_an_error_too(number, tmp_path, capsys, monkeypatch) -> None:
    """Such as Prefect's own, where its records lie."""

    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("flows.cli.flow_runs.run_flow", refuse)
    assert run_command(["run", "--workspace", str(tmp_path)]) == 1
    assert "Make room on the disk, or repair it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run, predict, serve, retrain"),
        (["models"], "list, history, register"),
        (["rnu"], "Did you mean run?"),
        (["models", "promte", "w"], "Did you mean promote?"),
        (["run", "--trainin.epochs", "3"], "Did you mean --training.epochs?"),
        (["run", "--workspce=w"], "Did you mean --workspace?"),
        (["prune", "w", "--yse"], "Did you mean --yes?"),
        (["models", "promote", "w", "1", "--raeson", "x"], "Did you mean --reason?"),
        (["verify"], "RUN"),
        (["demo", "x.zip", "--seed", "-1"], "seed"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_used_ends_with_exit_code_2(words, said, capsys) -> None:
    assert run_command(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert said in output.err
    assert (output.out, len(output.err.splitlines())) == ("", 1)


@pytest.mark.parametrize("words", [["--help"], ["models", "--help"], ["models", "promote", "--help"], ["demo", "-h"]])
def test_every_level_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: hip-mri", *words[:-1]]))


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(["--help"])
    words = capsys.readouterr().out.partition("Exit codes:")[2].replace(",", "").split()
    assert [word for word in words if word.isdecimal()] == ["0", "1", "2", "129", "130", "143"]


class CountingSettings(Settings):
    """Settings of a flow that only this test knows."""

    number: int = 2


def count_on(config: CountingSettings) -> str:
    return str(config.number + 1)


def test_any_flow_with_settings_of_its_own_can_be_started() -> None:
    code = (
        "from tests.flows.test_command_line import CountingSettings; from flows.cli.flow_runs import start_flow\n"
        f"print(start_flow('{__name__}:count_on', CountingSettings(number=41)))"
    )
    with serve(answer_json("3.8.8")) as port:  # the command is no flow: it asks that server for its version alone
        named = os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        done = run_python("-c", code, environment=named)
    assert done.stdout.splitlines()[-1] == "42"
