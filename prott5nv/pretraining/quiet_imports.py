"""Imports Megatron-Core and NeMo without their start-up messages. Import this module before them."""

import logging
import warnings

_LOGGER = logging.getLogger("nv_one_logger")  # telemetry of NeMo, which is off

_level = _LOGGER.level
_LOGGER.setLevel(logging.ERROR)
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import megatron.core  # noqa: F401
        import nemo.core  # noqa: F401
finally:
    _LOGGER.setLevel(_level)
