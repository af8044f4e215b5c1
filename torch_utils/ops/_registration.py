"""Register all operations of this package with PyTorch; see `_library`."""

from torch.library import Library

import torch_utils.ops._library_bias_act as _library_bias_act
import torch_utils.ops._library_triplane_sample as _library_triplane_sample
import torch_utils.ops._library_upfirdn2d as _library_upfirdn2d
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
