"""The records of one run, fixed, for golden texts."""

from hip_mri.evaluation.report.record import RunRecord

METRICS = {
    "test": {
        "num_images": 400,
        "num_lesions": 120,
        "num_groups": 85,
        "auc": 0.8731,
        "average_precision": 0.7912,
        "brier": 0.1404,
        "expected_calibration_error": 0.0512,
        "calibration_slope": None,
        "calibration_intercept": float("nan"),
        "at_threshold": {
            "threshold": 0.3125,
            "confusion_matrix": [[224, 56], [12, 108]],
            "sensitivity": 0.9,
            "specificity": 0.8,
            "ppv": 0.6585,
            "npv": 0.9492,
            "accuracy": 0.83,
            "f1": None,
        },
        "intervals": {"auc": [0.8123, 0.9214], "brier": None, "at_threshold": {"sensitivity": [0.8311, 0.9434]}},
    },
    "val": {"num_images": 390, "num_lesions": 118, "auc": 0.86},
    "train": {"num_images": 1600},
    "threshold": 0.3125,
    "weights": "imagenet",
    "versions": {"keras": "3.15.0", "python": "3.11.9"},
    "data": {
        "num_images": 2390,
        "num_duplicates": 12,
        "num_quarantined": 5,
        "num_ignored": 3,
        "splits": {
            "train": {"normal": 1120, "osseous_lesion": 480},
            "val": {"normal": 272, "osseous_lesion": 118},
            "test": {"normal": 280, "osseous_lesion": 120},
        },
    },
    "notices": ["SYNTHETIC DATA: the images are drawn."],
    "grouping": {
        "is_patient_level": True,
        "evidence": {"file_name": 2300, "similar_images": 90},
        "num_groups": 510,
        "largest_group": 14,
    },
}

SETTINGS = {
    "source": "Smith_family.zip",
    "workspace": "/srv/secret",
    "seed": 42,
    "data.val_fraction": 0.15,
    "data.test_fraction": 0.15,
    "preprocessing.clahe_clip_limit": 2.0,
    "preprocessing.clahe_num_tiles": 8,
    "preprocessing.image_size": 224,
    "model.backbone": "ResNet101",
    "model.hidden_units": 1024,
    "model.weights": "/home/smith/weights.h5",
    "training.epochs": 30,
    "training.batch_size": 150,
    "training.learning_rate": 0.0001,
    "training.horizontal_flip": True,
    "training.class_weight": "none",
    "training.early_stopping_patience": 0,
    "training.fine_tune.epochs": 0,
}

FILES = frozenset(
    {
        "config.yaml",
        "figures/explanations.png",
        "figures/roc.png",
        "history.csv",
        "manifest.csv",
        "metrics.json",
        "model.keras",
        "predictions.csv",
        "quarantine.csv",
    }
)

RECORD = RunRecord(METRICS, SETTINGS, FILES)
