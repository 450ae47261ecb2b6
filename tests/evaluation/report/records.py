"""Records of a run, for golden documents."""

from typing import Any

from hip_mri.evaluation.report.run_report import RunReport

METRICS: dict[str, Any] = {
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
        "intervals": {
            "auc": [0.8123, 0.9214],
            "average_precision": None,
            "brier": None,
            "at_threshold": {"sensitivity": [0.8311, 0.9434], "specificity": None, "ppv": None, "npv": None},
        },
    },
    "val": {"num_images": 390, "num_lesions": 118, "auc": 0.86},
    "train": {"num_images": 1600},
    "threshold": 0.3125,
    "recalibration": None,
    "conformal": {
        "images": {
            "threshold": 0.3125,
            "error_rate": 0.1,
            "min_lesion": 0.21,
            "max_normal": 0.47,
            "reason": "",
            "test": {
                "normal": {"coverage": 0.92, "uncertain": 0.15, "intervals": {"coverage": None, "uncertain": None}},
                "osseous_lesion": {"coverage": 0.9, "uncertain": 0.2, "intervals": {"coverage": None}},
            },
        },
        "patients": None,
    },
    "subgroups": [
        {"column": "scanner", "value": "A", "num_groups": 70, "auc": 0.88},
        {"column": "scanner", "value": "B", "num_groups": 15, "auc": None},
    ],
    "uniform_attributes": ["sex"],
    "features": {"input_scaling": "caffe"},
    "weights": "imagenet",
    "versions": {"hip-mri": "1.2.0", "keras": "3.15.0", "python": "3.11.9"},
    "environment": {"commit": "cd" * 20, "flow_run_id": "0d5c7c3e-1f4b", "model_sha256": "ef" * 32},
    "cross_validation": {
        "grouped": {"aucs": [0.86, 0.88], "mean": 0.87, "standard_deviation": 0.0141},
        "by_image": {"aucs": [0.92], "mean": 0.92, "standard_deviation": None},
        "inflation": 0.05,
    },
    "leakage": {
        "max_auc": 0.55,
        "leaks": False,
        "strongest": {
            "by": "order",
            "length": 8,
            "num_images": 1600,
            "num_draws": 100,
            "auc": 0.5102,
            "interval": [0.4981, 0.5223],
        },
    },
    "patients": None,
    "data": {
        "num_images": 2390,
        "num_duplicates": 12,
        "num_quarantined": 5,
        "num_ignored": 3,
        "num_kept": 0,
        "num_prescribed": 0,
        "num_assigned": 2390,
        "splits": {
            "train": {"normal": 1120, "osseous_lesion": 480},
            "val": {"normal": 272, "osseous_lesion": 118},
            "test": {"normal": 280, "osseous_lesion": 120},
        },
    },
    "notices": ["SYNTHETIC DATA: the images are drawn."],
    "grouping": {
        "is_patient_level": True,
        "evidence": {"patient_id": 2300, "similar": 90},
        "num_groups": 510,
        "num_patients": 510,
        "largest_group": 14,
    },
}

CONFIG: dict[str, Any] = {
    "source": "Smith_family.zip",
    "workspace": "/srv/secret",
    "seed": 42,
    "data": {"val_fraction": 0.15, "test_fraction": 0.15, "given_split": "keep"},
    "preprocessing": {"clahe_clip_limit": 2.0, "clahe_num_tiles": 8, "image_size": 224},
    "model": {"backbone": "ResNet101", "weights": "/home/smith/weights.h5", "head": "dense", "hidden_units": 1024},
    "training": {
        "epochs": 30,
        "batch_size": 150,
        "learning_rate": 0.0001,
        "horizontal_flip": True,
        "class_weight": "none",
        "early_stopping_patience": 0,
        "fine_tune": {"epochs": 0},
    },
    "evaluation": {"threshold_rule": "youden", "num_resamples": 2000, "min_subgroup_size": 10},
}

FILES = frozenset(
    {
        "config.yaml",
        "figures/explanations.png",
        "figures/roc.png",
        "history.csv",
        "leakage.csv",
        "manifest.csv",
        "metrics.json",
        "model.keras",
        "neighbours.csv",
        "predictions.csv",
        "quarantine.csv",
    }
)

RUN = RunReport(METRICS, CONFIG, files=FILES)
