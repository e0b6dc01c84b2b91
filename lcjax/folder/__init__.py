"""Model folders of Hugging Face transformers: collapsed from disk, loaded and saved."""

from lcjax.folder.collapse import collapse_model
from lcjax.folder.loading import load_model
from lcjax.folder.options import FolderOptions
from lcjax.folder.output.report import describe_folder
from lcjax.folder.saving import save_model

__all__ = ["FolderOptions", "collapse_model", "describe_folder", "load_model", "save_model"]
