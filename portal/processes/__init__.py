"""The portal's processes on one machine, kept alive by supervisor (PyPI).

`manage.py up` and `manage.py demo` hold the data folder's lock, run supervisord as a child in a
session of its own, and take it down again. What a killed parent left behind is found by the mark of
its data folder (Redis, which wipes its environment, by where it works) and ended by the next start.
See docs/decisions/0030 to 0032.
"""

from portal.processes.errors import ProcessesError
from portal.processes.ownership import (
    MARK,
    check_port,
    end_marked,
    find_free_port,
    find_marked,
    hold_data_folder,
    name_instance,
)
from portal.processes.programs import (
    HOST,
    Program,
    describe_elasticsearch,
    fetch_elasticsearch,
    find_redis_server,
    list_programs,
)
from portal.processes.supervision import Portal, run_portal

__all__ = [
    "HOST",
    "MARK",
    "Portal",
    "ProcessesError",
    "Program",
    "check_port",
    "describe_elasticsearch",
    "end_marked",
    "fetch_elasticsearch",
    "find_free_port",
    "find_marked",
    "find_redis_server",
    "hold_data_folder",
    "list_programs",
    "name_instance",
    "run_portal",
]
