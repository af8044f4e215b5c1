"""All kinds of findings by their code, in the order of a report."""

from training.data.doctor.camera_kinds import CAMERA_KINDS
from training.data.doctor.file_kinds import FILE_KINDS
from training.data.doctor.mask_kinds import MASK_KINDS

CATALOGUE = {kind.code: kind for kind in (*FILE_KINDS, *MASK_KINDS, *CAMERA_KINDS)}
FIXABLE_CODES = tuple(kind.code for kind in CATALOGUE.values() if kind.fix)
