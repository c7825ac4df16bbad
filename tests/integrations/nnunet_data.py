"""A tiny nnU-Net dataset: two scans (FLAIR and T1c) of each of six patients, on one grid, with the same labels."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

REAL = Path(__file__).parents[3] / "shared" / "data" / "brain_tumour_brats.npz"  # beside the checkout, if there
SCANS = ("flair", "t1c")


def write_dataset(raw: Path, name: str) -> dict[str, str]:
    """Writes a raw dataset of cases `<patient>_<scan>` and returns the patient of each."""
    folder = raw / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    patient_of = {}
    volumes = _real_volumes() if REAL.exists() else _generated_volumes()
    for patient, scan, image, label in volumes:
        case = f"{patient}_{scan}"
        patient_of[case] = patient
        _save(folder / "imagesTr" / f"{case}_0000.nii.gz", image.astype(np.float32))
        _save(folder / "labelsTr" / f"{case}.nii.gz", (label > 0).astype(np.uint8))
    about = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": len(patient_of),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return patient_of


def write_sets(file: Path, set_of: dict[str, str]) -> None:
    file.write_text("set,case\n" + "".join(f"{name},{case}\n" for case, name in set_of.items()), encoding="utf-8")


def _real_volumes():
    with np.load(REAL, allow_pickle=False) as archive:
        images, labels, ids = archive["images"], archive["labels"], archive["ids"]
    for patient in sorted({name.split("/")[0] for name in ids}):
        for scan in SCANS:
            chosen = sorted((name, i) for i, name in enumerate(ids) if name.startswith(f"{patient}/{scan}_"))
            order = [i for _, i in chosen[::3]]
            yield patient, scan, images[order, ::2, ::2], labels[order, ::2, ::2]


def _generated_volumes(depth: int = 5, size: int = 64):
    """Round heads with a round bright tumour, brighter in the first scan; nothing outside of the head."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    for number in range(6):
        middle = random.uniform(0.4, 0.6, 2) * size
        label = np.stack([np.hypot(y - middle[0], x - middle[1]) < 4 + z for z in range(depth)])
        head = np.hypot(y - size / 2, x - size / 2) < 0.4 * size
        for scan, contrast in zip(SCANS, (120, 60), strict=True):
            image = 60 + contrast * label + 15 * random.standard_normal(label.shape)
            yield f"pat{number:04d}", scan, np.clip(image, 1, 255) * head, label


def _save(file: Path, volume: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), np.diag([1.0, 1.0, 5.0, 1.0])), file)
