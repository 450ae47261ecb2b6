"""Invented names, written wherever a source can hold the name of a patient."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from tests.conftest import draw_image
from tests.images.dicom_files import write_dicom
from tests.images.image_files import insert_chunk, insert_segment

CANARIES = ("ZZCANARY", "ZZKANÄRIE", "金絲雀穆勒")
"""Parts of every name that is planted: plain, with an accent, and in letters of East Asia."""

GIVEN = "ZZGIVENPATH"
"""Part of every path that the user gives to a flow, which Prefect keeps with the run's parameters."""

TOKEN = "ZZTOKEN7f3a9c"
"""Part of every secret."""

UID = "1.2.826.0.1.3680043.99424242424242"
"""Begins every identifier of a DICOM file."""


def name_patient(place: str) -> str:
    """A patient's name that says where it was planted."""
    return "^".join((f"{CANARIES[0]}{place}", CANARIES[1], CANARIES[2]))


def dress(picture: NDArray[np.uint8], number: int) -> tuple[bytes, str]:
    """A picture as a file that names its patient in one of several ways, and the ending of its name."""
    kinds = (_write_png, _write_jpeg, _write_tiff, _write_dicom)
    return kinds[number % len(kinds)](picture, number)


def _write_png(picture: NDArray[np.uint8], number: int) -> tuple[bytes, str]:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", name_patient("TEXT").encode("ascii", "replace").decode())
    text.add_itxt("Patient", name_patient("ITXT"), zip=bool(number % 2))
    text.add_text("Patient", (CANARIES[0] + "ZTXT ") * 20, zip=True)
    content = _save(picture, "PNG", pnginfo=text, exif=_write_exif("PNGEXIF"))
    return insert_chunk(content, b"prVt", name_patient("CHUNK").encode()), "png"


def _write_jpeg(picture: NDArray[np.uint8], number: int) -> tuple[bytes, str]:
    content = _save(picture, "JPEG", quality=95, exif=_write_exif("JPEGEXIF"))
    packet = f"<x:xmpmeta><dc:title>{name_patient('XMP')}</dc:title></x:xmpmeta>".encode()
    content = insert_segment(content, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)
    return insert_segment(content, 0xFE, name_patient("COMMENT").encode()), "jpg"


def _write_tiff(picture: NDArray[np.uint8], number: int) -> tuple[bytes, str]:
    return _save(picture, "TIFF", description=name_patient("TIFF").encode(), artist=CANARIES[0] + "ARTIST"), "tif"


def _write_dicom(picture: NDArray[np.uint8], number: int) -> tuple[bytes, str]:
    tags = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": name_patient("DICOM"),
        "PatientID": f"{CANARIES[0]}ID{number}",
        "PatientBirthDate": "19010203",
        "PatientComments": name_patient("COMMENTS"),
        "AccessionNumber": f"{CANARIES[0]}ACC",
        "StudyInstanceUID": f"{UID}.1",
        "SeriesInstanceUID": f"{UID}.2",
        "SOPInstanceUID": f"{UID}.3.{number}",
    }
    content = write_dicom(picture, preamble=f"{CANARIES[0]}PREAMBLE".encode() if number % 8 == 7 else b"", **tags)
    return content, "dcm"


def _write_exif(place: str) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = CANARIES[0] + place, CANARIES[0] + "ARTIST"
    return exif


def _save(picture: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()


def plant_files(num_normal: int, num_lesion: int, seed: int) -> dict[str, bytes]:
    """Files of a source by their path in it: images, what is refused among them, and a table of patients."""
    generator = np.random.default_rng(seed)
    files, rows = {}, ["source_name,patient_id,scanner,surname"]
    for label, count in (("normal", num_normal), ("osseous_lesion", num_lesion)):
        for number in range(count):
            picture = draw_image(generator, has_lesion=label != "normal")
            content, ending = dress(picture, number)
            name = f"{label}/{name_patient('FOLDER')}/{name_patient(f'FILE{seed}-{number}')}.{ending}"
            files[name] = content
            if ending == "dcm" and number % 8 == 3:
                continue  # these are known by what the file says of its patient
            patient = f"{seed}{label}{number // 2}"
            known = (name, name_patient(f"ROW{patient}"), f"S{number % 2}", name_patient(f"SURNAME{patient}"))
            rows.append(",".join(known))
    files |= _plant_faults(generator, files)
    return files | {"patients.csv": "\n".join(rows).encode()}


def _plant_faults(generator: np.random.Generator, sound: dict[str, bytes]) -> dict[str, bytes]:
    """What is set aside, ignored, a copy or a contradiction."""
    first = next(content for name, content in sound.items() if name.startswith("normal/") and name.endswith(".png"))
    both = dress(draw_image(generator, has_lesion=False), 0)[0]
    again = _save(np.array(Image.open(io.BytesIO(first))), "JPEG", quality=97)
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr(name_patient("INNER"), name_patient("INNER"))
    dicom = dress(draw_image(generator, has_lesion=False), 3)[0]
    faults = {
        "broken.png": first[: len(first) // 2],
        "broken.dcm": dicom[:-40],
        "nested.zip": nested.getvalue(),
        "text.png": name_patient("WORDS").encode(),
        "empty.jpg": b"",
        "control\x1b[31m.png": first + b"x",
        "again.png": first,
        "similar.jpg": again,
        "both.png": both,
    }
    placed = {f"normal/{name_patient('FAULT')}-{name}": content for name, content in faults.items()}
    return placed | {
        f"osseous_lesion/{name_patient('BOTH')}.png": both,
        f"{name_patient('README')}.txt": name_patient("README").encode(),
        f"__MACOSX/normal/._{name_patient('LITTER')}": b"litter",
    }


def pack(files: dict[str, bytes], file: Path, top: str = "") -> Path:
    """A zip whose every field that can hold words names a patient."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = name_patient("ARCHIVE").encode()
        for name, content in files.items():
            entry = zipfile.ZipInfo(top + name)
            entry.comment = name_patient("ENTRY").encode()
            text = name_patient("EXTRA").encode()
            entry.extra = b"\x99\x99" + len(text).to_bytes(2, "little") + text
            archive.writestr(entry, content)
    return file


def spread(files: dict[str, bytes], folder: Path) -> Path:
    """The same as a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def plant_refused(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Sources that are refused as a whole: what is wrong with each, and the options that give it to the pipeline."""
    generator, name = np.random.default_rng(9), name_patient("REFUSED")
    picture = dress(draw_image(generator, has_lesion=False), 0)[0]
    names = [f"{label}/{name}{number}.png" for label in ("normal", "osseous_lesion") for number in range(3)]
    sound = {place: dress(draw_image(generator, has_lesion=False), 0)[0] for place in names}
    here = folder / f"{GIVEN} refused"

    def packed(kind: str, files: dict[str, bytes]) -> tuple[str, list[str]]:
        return kind, ["--source", str(pack(files, here / f"{GIVEN} {kind}.zip"))]

    yield packed("climbs", sound | {f"normal/../../{name}.png": picture})
    yield packed("unknown class", sound | {f"{name}/{name}.png": picture})
    yield packed("no class", {f"{name}/{name}.png": picture})
    yield packed("equal but for case", sound | {f"normal/{name}0.PNG": picture})
    yield packed("two tables", sound | {f"{name}-patients.csv": b"x", f"{name}2-patients.csv": b"x"})
    row = f"normal/{name}0.png,{name}"
    yield packed("bad table", sound | {"patients.csv": f"source_name,patient_id\n{row}\n{row}2\n".encode()})
    yield packed("strange table", sound | {"patients.csv": f"source_name,patient_id\n{name},{name}\n".encode()})
    yield packed("all contradict", dict.fromkeys(names, picture))
    (here / "no.zip").write_bytes(name.encode())
    yield "no zip", ["--source", str(here / "no.zip")]
    linked = spread(sound, here / "linked")
    (linked / "normal" / f"{name}.png").symlink_to("/etc/hostname")
    yield "link", ["--source", str(linked)]
    table = here / "table.csv"
    table.write_text(f"source_name\n{name}")
    yield "given table", ["--source", str(pack(sound, here / "sound.zip")), "--data.patients-file", str(table)]
