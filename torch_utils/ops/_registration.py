"""Register all operations of this package with PyTorch; see `_library`."""

from torch.library import Library

from torch_utils.ops import _library_bias_act, _library_triplane_sample, _library_upfirdn2d
from torch_utils.ops._library import NAMESPACE, define, describe

OPERATIONS = (
    *_library_bias_act.OPERATIONS,
    *_library_upfirdn2d.OPERATIONS,
    *_library_triplane_sample.OPERATIONS,
)

# The registrations last as long as this object.
_LIBRARY = Library(NAMESPACE, "FRAGMENT")

for _operation in OPERATIONS:
    define(_LIBRARY, _operation)
    describe(_LIBRARY, _operation)
