"""All kinds of findings by their code, in the order of a report."""

from training.data.doctor.cameras import CAMERA_KINDS
from training.data.doctor.geometry import GEOMETRY_KINDS
from training.data.doctor.index import INDEX_KINDS
from training.data.doctor.masks import PIXEL_KINDS
from training.data.doctor.pairs import PAIR_KINDS
from training.data.doctor.statistics import STATISTICS_KINDS

_KINDS = (
    *INDEX_KINDS,
    *PAIR_KINDS,
    *PIXEL_KINDS,
    *GEOMETRY_KINDS,
    *CAMERA_KINDS,
    *STATISTICS_KINDS,
)
CATALOGUE = {kind.code: kind for kind in _KINDS}
