"""Options, settings files, messages and exit codes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from flows import predict
from flows.command_line import Command, main, read_config
from flows.pipeline import COMMAND
from hip_mri.config import PipelineConfig, Settings
from hip_mri.errors import SettingsError
from hip_mri.models import keras_settings
from hip_mri.workspace import Workspace
from tests.flows.test_prefect_server import answer_json
from tests.sources.remote.web_server import serve

PROJECT = Path(__file__).parents[2]

COMMANDS = [COMMAND, predict.COMMAND]
"""Of every flow."""


def list_options(model: type[BaseModel], prefix: str = "--") -> list[str]:
    options = []
    for name, field in model.model_fields.items():
        dashed = prefix + name.replace("_", "-")
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        options += list_options(kind, f"{dashed}.") if nested else [dashed]
    return options


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
    config = read_config(COMMAND, [str(file) if word == "{file}" else word for word in words])
    assert isinstance(config, PipelineConfig)
    assert config.data.class_names == {"healthy": "normal", "Bone_Lesion": "osseous_lesion"}


@pytest.mark.parametrize("names", ['{"healthy": "fine"}', '{"normal": "osseous_lesion"}'])
def test_class_names_that_stand_for_no_class_or_two_are_refused(names: str) -> None:
    with pytest.raises(SettingsError, match=r"data\.class_names"):
        read_config(COMMAND, ["--data.class-names", names])


def test_the_form_in_the_ui_shows_class_names_with_their_choices() -> None:
    field = PipelineConfig.model_json_schema()["$defs"]["DataSettings"]["properties"]["class_names"]
    assert field["additionalProperties"]["enum"] == ["normal", "osseous_lesion"]


def test_no_options_are_the_defaults() -> None:
    assert read_config(COMMAND, []) == PipelineConfig()


def test_dotted_names_set_fields_with_dashes_and_underscores_alike() -> None:
    config = read_config(
        COMMAND,
        [
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
        ],
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
    config = read_config(COMMAND, ["--config", str(file), "--training.epochs", "6"])
    assert (config.seed, config.training.epochs, config.training.batch_size) == (3, 6, 5)


def test_written_settings_can_be_read_again(tmp_path: Path) -> None:
    import yaml

    config = read_config(COMMAND, ["--source", "x.zip", "--seed", "9", "--data.val-fraction", "0.2"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert read_config(COMMAND, ["--config", str(file)]) == config


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trainin.epochs", "3"], r"unrecognized arguments: --trainin.epochs 3. See --help"),
        (["--training.epochs", "0"], r"training.epochs: Input should be greater than or equal to 1 \(received '0'\)"),
        (["--model.backbone", "VGG"], r"model.backbone: Input should be 'ResNet50', 'ResNet101' or 'ResNet152'"),
        (["--source-sha256", "12"], r"source_sha256: String should match pattern"),
        (["--source-sha256", "a" * 64], r"source_sha256 is given without a source"),
        (["--config", "/no/such.yaml"], r"config: /no/such.yaml cannot be read"),
    ],
)
def test_bad_options_are_named(arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_config(COMMAND, arguments)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"(?s)seed: .*training.epochs: ") as error:
        read_config(COMMAND, ["--seed", "-1", "--training.epochs", "many"])
    assert len(str(error.value).splitlines()) == 2


def test_an_address_with_a_token_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match=r"^source: the address holds a user, .* give env:NAME, or") as error:
        read_config(COMMAND, ["--source", "https://example.org/hip.zip?X-Amz-Signature=7f3a9c"])
    assert "7f3a9c" not in str(error.value)


@pytest.mark.parametrize(
    "words", [("--sorce", "{}"), ("--model.weights", "{}"), ("--seed", "{}"), ("--workspace={}",)], ids=str
)
def test_an_address_in_another_place_is_not_repeated_either(words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as error:
        read_config(COMMAND, [word.format("https://anna:7f3a9c@example.org") for word in words])
    assert "7f3a9c" not in str(error.value)


def test_a_broken_settings_file_is_placed_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("seed: 1\nsource: 'https://anna:7f3a9c@example.org\n")
    with pytest.raises(SettingsError, match=r"is not YAML \(found unexpected end of stream, in line 3\)") as error:
        read_config(COMMAND, ["--config", str(file)])
    assert "7f3a9c" not in str(error.value)


@pytest.mark.parametrize("option", ["--source", "--workspace", "--data.patients-file", "--model.weights", "--config"])
def test_a_path_that_is_not_utf_8_is_told(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([option, "/data/M\udcfcller"], [f"{option}=/data/M\udcfcller"]):
        assert main(COMMAND, arguments) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"error: {option}: the value has bytes that are not UTF-8")
        assert len(told.splitlines()) == 1


def test_settings_file_must_hold_names_and_values(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("{")
    with pytest.raises(SettingsError, match="must hold names and values"):
        read_config(COMMAND, ["--config", str(tmp_path / "list.yaml")])
    with pytest.raises(SettingsError, match="is not YAML"):
        read_config(COMMAND, ["--config", str(tmp_path / "broken.yaml")])


@pytest.mark.parametrize(
    "content",
    ["training: 2024-13-45", "seed: !!int many", "seed: !!bool perhaps", "seed: !!timestamp now", "[" * 5000],
    ids=["a date that is none", "a number that is none", "no truth value", "no time", "too deep"],
)
def test_what_yaml_itself_stumbles_over_is_told(content: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    assert main(COMMAND, ["--config", str(file)]) == 1
    assert f"error: config: {file} is not YAML" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.flow)
def test_a_home_that_nobody_has_is_told(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command, ["--workspace", "~no-such-user/x"]) == 1
    told = "error: workspace: '~no-such-user/x' is not a path (Could not determine home directory.). "
    assert capsys.readouterr().err.startswith(told + "Give the path in full.")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.flow)
@pytest.mark.parametrize("backend", ["theano", "jax"])
def test_a_backend_of_keras_that_cannot_be_used_is_told_at_once(
    command: Command, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keras_settings, "_is_installed", lambda module: False)
    monkeypatch.setenv("HIP_MRI_KERAS_BACKEND", backend)
    assert main(command, []) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: HIP_MRI_KERAS_BACKEND: ")
    assert backend in line


def test_missing_source_is_told_at_once_with_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND, ["--source", "/no/such.zip"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: source: there is no such file or folder.")
    assert output.err.endswith("It was given as '/no/such.zip'.\n")
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.flow)
def test_help_lists_every_setting_without_loading_prefect_or_tensorflow(command: Command) -> None:
    code = (
        "import runpy, sys; sys.argv = ['flow', '--help']\n"
        f"try: runpy.run_module('{command.flow.partition(':')[0]}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'prefect', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.startswith(f"usage: {command.program} ")
    assert " ".join(command.description.split()[:5]) in done.stdout
    missing = [option for option in list_options(command.config) if option + " " not in done.stdout]
    assert missing == []
    assert "--config " in done.stdout


def test_help_states_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_config(COMMAND, ["--help"])
    assert "(default: 30)" in " ".join(capsys.readouterr().out.split())


class CountingSettings(Settings):
    """Settings of a flow that only this test knows."""

    number: int = 2
    """What is counted from."""


def count_on(config: CountingSettings) -> str:
    return str(config.number + 1)


def test_any_flow_with_settings_of_its_own_has_this_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(CountingSettings, f"{__name__}:count_on", "count", "Count on.")
    code = (
        "from tests.flows import test_command_line as test; from flows.command_line import Command, main\n"
        f"main(Command(test.CountingSettings, {command.flow!r}, 'count', 'Count on.'), ['--number', '41'])"
    )
    with serve(answer_json("3.8.8")) as port:  # it is no flow: nobody calls that server but for its version
        named = os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True, env=named
        )
    assert done.stdout.splitlines()[-1] == "42"
    assert read_config(command, []) == CountingSettings()
    assert main(command, ["--number", "x"]) == 1
    assert capsys.readouterr().err.startswith("error: number: Input should be a valid integer")


@pytest.mark.parametrize(("command", "held"), [(COMMAND, ""), (predict.COMMAND, "serving")], ids=["train", "predict"])
def test_fault_59_a_second_run_ends_before_prefect_starts(command, held, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("flows.command_line.run_flow", lambda *_, **__: pytest.fail("it was started"))
    with Workspace(tmp_path / held).hold():
        assert main(command, ["--workspace", str(tmp_path)]) == 1
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err


def test_fault_59_training_and_scoring_do_not_wait_for_each_other(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("flows.command_line.run_flow", lambda *_, **__: "done")
    with Workspace(tmp_path).hold():
        assert main(predict.COMMAND, ["--workspace", str(tmp_path)]) == 0
    with Workspace(tmp_path / "serving").hold():
        assert main(COMMAND, ["--workspace", str(tmp_path)]) == 0


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "Make room on the disk"), (errno.EROFS, "or mend it")])
def test_fault_56_and_57_a_disk_that_refuses_elsewhere_is_told_too(number, told, tmp_path, capsys, monkeypatch) -> None:
    """Such as Prefect's own, where its records lie."""

    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("flows.command_line.run_flow", refuse)
    assert main(COMMAND, ["--workspace", str(tmp_path)]) == 1
    assert told in capsys.readouterr().err
