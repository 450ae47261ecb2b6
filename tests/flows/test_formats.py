"""Images in every supported format, from the source to scores."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from flows.pipeline import hip_pipeline
from flows.predict import hip_predict
from hip_mri.config import PredictConfig
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.synthetic.demo import draw_demo
from hip_mri.workspace import Workspace
from tests.flows.test_pipeline import configure
from tests.images.dicom_files import compress_losslessly, write_enhanced
from tests.images.image_files import encode_image

TWELVE = {"BitsStored": 12, "HighBit": 11}


def write_source(folder: Path) -> dict[str, int]:
    """Demo images as PNG; beside them one 12-bit picture in ten forms, a multi-frame object and a NIfTI volume.

    Returns:
        The number of pictures that each file holds, by its name.
    """
    images = list(draw_demo(seed=2, num_patients=20))
    counts: dict[str, int] = {}

    def write(name: str, content: bytes, num_pictures: int = 1) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        counts[name] = num_pictures

    for number, image in enumerate(images[:-7]):
        write(f"{image.label}/{number}.png", encode_image(image.pixels))
    deep = [image.pixels.astype(np.uint16) * 16 for image in images[-7:]]
    deep = [values[:200, :200] for values in deep]
    for number, content in enumerate(compress_losslessly(deep[0]).values()):
        write(f"normal/form{number}.dcm", content)
    write("osseous_lesion/enhanced.dcm", write_enhanced(deep[1:4], [{}] * 3, **TWELVE), 3)
    volume = nibabel.Nifti1Image(np.stack(deep[4:7], axis=-1), np.diag([0.8, 0.8, 4, 1]))
    write("normal/volume.nii.gz", gzip.compress(volume.to_bytes()), 3)
    return counts


def test_every_format_is_trained_on_and_scored(tmp_path: Path) -> None:
    counts = write_source(tmp_path / "source")
    run = Path(hip_pipeline(configure(tmp_path / "source", tmp_path / "workspace")))
    manifest = read_named_manifest(Workspace(tmp_path / "workspace"))
    assert not set(manifest["state"]) & {"quarantined"}
    assert manifest["source_name"].value_counts().to_dict() == counts
    forms = manifest[manifest["source_name"].str.contains("form")]
    assert forms["sha256"].nunique() == 1
    assert sorted(forms["state"]) == ["duplicate"] * (len(forms) - 1) + ["ready"]
    for name in ("osseous_lesion/enhanced.dcm", "normal/volume.nii.gz"):
        slices = manifest[manifest["source_name"] == name]
        assert slices["group"].nunique() == slices["split"].nunique() == 1
        assert (slices["evidence"].str.contains("series")).all()

    settings = {"source": str(tmp_path / "source"), "model": str(run), "workspace": tmp_path / "workspace"}
    predictions = Path(hip_predict(PredictConfig.model_validate(settings | {"data": {"slices": "middle"}})))
    table = pd.read_csv(predictions / "predictions.csv")
    assert set(table["state"]) == {"scored"}
    assert len(table) == len(counts) - (len(forms) - 1)
    names = pd.read_csv(predictions / "names.csv").set_index("source_name")
    assert names.loc["normal/volume.nii.gz", "slice"] == 1
