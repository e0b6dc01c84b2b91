"""Model folders of Hugging Face transformers: collapsed layer by layer from disk, and loaded."""

from lcjax.folder.collapse import collapse_model
from lcjax.folder.loading import load_model
from lcjax.folder.options import FolderOptions
from lcjax.folder.output.report import describe_folder

__all__ = ["FolderOptions", "collapse_model", "describe_folder", "load_model"]
