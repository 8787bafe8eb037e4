"""edge_runtime: compressed models on the devices that people really have.

    import edge_runtime as edge

    with edge.open_session("malaria", "raspberry-pi-zero-2w") as session:
        print(session.predict("slide-0007/"))

Names are imported when they are first used; none of them loads numpy or an engine into this process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle as Bundle
    from edge_runtime.bundle import load_bundle as load_bundle
    from edge_runtime.bundle import pack as pack
    from edge_runtime.errors import BudgetError as BudgetError
    from edge_runtime.errors import EdgeError as EdgeError
    from edge_runtime.errors import EngineError as EngineError
    from edge_runtime.errors import InputError as InputError
    from edge_runtime.items import Item as Item
    from edge_runtime.journal import Journal as Journal
    from edge_runtime.loop import run_loop as run_loop
    from edge_runtime.loop import watch as watch
    from edge_runtime.planner import Plan as Plan
    from edge_runtime.planner import plan as plan
    from edge_runtime.profile import DeviceProfile as DeviceProfile
    from edge_runtime.profile import load_profile as load_profile
    from edge_runtime.program import open_program as open_program
    from edge_runtime.results import Outcome as Outcome
    from edge_runtime.results import Prediction as Prediction
    from edge_runtime.session import Session as Session
    from edge_runtime.session import open_session as open_session

_HOME = {
    **dict.fromkeys(("Bundle", "load_bundle", "pack"), "bundle"),
    **dict.fromkeys(("BudgetError", "EdgeError", "EngineError", "InputError"), "errors"),
    **dict.fromkeys(("run_loop", "watch"), "loop"),
    **dict.fromkeys(("Plan", "plan"), "planner"),
    **dict.fromkeys(("DeviceProfile", "load_profile"), "profile"),
    **dict.fromkeys(("Outcome", "Prediction"), "results"),
    **dict.fromkeys(("Session", "open_session"), "session"),
    "Item": "items",
    "Journal": "journal",
    "open_program": "program",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
