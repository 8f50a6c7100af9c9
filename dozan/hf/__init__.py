"""dozan's ops within a transformers model, for those who keep their own trainer: `attach` and `detach`."""

from dozan.hf.attached import Attached, attach, detach

__all__ = ["Attached", "attach", "detach"]
