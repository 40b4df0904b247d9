"""An experiment as frozen dataclasses. Every leaf is a typed flag; there is no other configuration language.

Durations inside a run (warm-up, boundaries) are fractions of it; the run itself is given in epochs, steps or
examples, and `total_steps` turns that into steps once.
"""

from cnnjax.config.data import CROPPING as CROPPING
from cnnjax.config.data import DARKNET as DARKNET
from cnnjax.config.data import LAID_OUT as LAID_OUT
from cnnjax.config.data import SHORT_SIDE as SHORT_SIDE
from cnnjax.config.data import Augment as Augment
from cnnjax.config.data import Data as Data
from cnnjax.config.data import Framing as Framing
from cnnjax.config.data import frame_of as frame_of
from cnnjax.config.errors import ConfigError as ConfigError
from cnnjax.config.errors import Stopped as Stopped
from cnnjax.config.errors import check_local as check_local
from cnnjax.config.errors import did_you_mean as did_you_mean
from cnnjax.config.errors import is_url as is_url
from cnnjax.config.experiment import PAGE_NAMES as PAGE_NAMES
from cnnjax.config.experiment import PREDICTABLE as PREDICTABLE
from cnnjax.config.experiment import RESUMABLE as RESUMABLE
from cnnjax.config.experiment import Experiment as Experiment
from cnnjax.config.experiment import Visualize as Visualize
from cnnjax.config.options import CFG_FILE as CFG_FILE
from cnnjax.config.options import OWN as OWN
from cnnjax.config.options import Needs as Needs
from cnnjax.config.options import is_on as is_on
from cnnjax.config.options import option as option
from cnnjax.config.tasks import Cascade as Cascade
from cnnjax.config.tasks import Classification as Classification
from cnnjax.config.tasks import Detection as Detection
from cnnjax.config.tasks import Heatmaps as Heatmaps
from cnnjax.config.tasks import Localization as Localization
from cnnjax.config.tasks import Mtcnn as Mtcnn
from cnnjax.config.tasks import Points as Points
from cnnjax.config.tasks import ShapeModel as ShapeModel
from cnnjax.config.training import Evaluate as Evaluate
from cnnjax.config.training import Model as Model
from cnnjax.config.training import Optimizer as Optimizer
from cnnjax.config.training import Train as Train
from cnnjax.config.tree import LENGTHS as LENGTHS
from cnnjax.config.tree import changed as changed
from cnnjax.config.tree import check as check
from cnnjax.config.tree import differences as differences
from cnnjax.config.tree import element_type as element_type
from cnnjax.config.tree import fields as fields
from cnnjax.config.tree import from_dict as from_dict
from cnnjax.config.tree import from_json as from_json
from cnnjax.config.tree import replace as replace
from cnnjax.config.tree import to_json as to_json
from cnnjax.config.tree import total_steps as total_steps
