"""The choice of a family by the config of a folder."""

from lcjax._messages import printable
from lcjax.errors import WeightsError
from lcjax.folder.families.bert import BertFamily, DistilBertFamily
from lcjax.folder.families.decoder import DecoderFamily
from lcjax.folder.families.family import Family
from lcjax.folder.families.modernbert import ModernBertFamily
from lcjax.folder.storage.model_folder import ModelFolder
from lcjax.interop.maps import BERT_MAP, DECODER_MAP, DISTILBERT_MAP, MODERNBERT_MAP, ROBERTA_MAP

_FAMILIES = (
    (BERT_MAP, BertFamily),
    (ROBERTA_MAP, BertFamily),
    (DISTILBERT_MAP, DistilBertFamily),
    (MODERNBERT_MAP, ModernBertFamily),
    (DECODER_MAP, DecoderFamily),
)


def family_of(folder: ModelFolder) -> Family:
    """Returns the layers of a folder's model.

    Raises:
      WeightsError: an unknown architecture, with those that are known; weights that differ from the
        config.
    """
    for names, family in _FAMILIES:
        if fields := names.fields(folder.config):
            return family(folder, names, fields)
    kind = printable(repr(folder.config.get("model_type")), longest=60)
    known = ", ".join(sorted(kind for names, _ in _FAMILIES for kind in names.types))
    raise WeightsError(
        f"{folder.path}/config.json, model_type: got {kind}, expected one of {known}: others have "
        "no layers that lcjax can run one by one."
    )
