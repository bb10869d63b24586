"""Datasets of images with class labels and optional boxes and masks: reading, transforming and loading them."""

from tokenloc.data.base import ImageDataset, Problem, Sample
from tokenloc.data.images import expand_wildcards, find_images, read_image, read_size
from tokenloc.data.loading import (
    EvaluationBatch,
    TrainingImages,
    Unreadable,
    evaluation_loader,
    training_loader,
)
from tokenloc.data.registry import DATASETS, create_dataset, list_datasets
from tokenloc.data.transforms import Preprocessing, evaluation_transform, train_transform

__all__ = [
    "DATASETS",
    "EvaluationBatch",
    "ImageDataset",
    "Preprocessing",
    "Problem",
    "Sample",
    "TrainingImages",
    "Unreadable",
    "create_dataset",
    "evaluation_loader",
    "evaluation_transform",
    "expand_wildcards",
    "find_images",
    "list_datasets",
    "read_image",
    "read_size",
    "train_transform",
    "training_loader",
]
