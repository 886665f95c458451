"""Generated tasks with a known truth: stand-ins of the seventeen datasets, two stress tests, and the smallest task.

`tslab.load_task` is the way in. `tslab.synthetic.stand_ins` says what a stand-in is, `tslab.synthetic.world` what all
of them share.
"""

from tslab.synthetic.specs import CLASS_SPECS, VALUE_SPECS, ClassSpec, ValueSpec
from tslab.synthetic.stand_ins import synthetic_task
from tslab.synthetic.toy import sphere_toy

__all__ = ["CLASS_SPECS", "VALUE_SPECS", "ClassSpec", "ValueSpec", "sphere_toy", "synthetic_task"]
