"""The task `bytes`, evaluated 50 times in a run: what `steps_to_target.py` hands to `compare`.

A file of its own: `compare` resumes a run only while the file of its task is what it was.
"""

from __future__ import annotations

import dataclasses

from stepwell import tasks

task = dataclasses.replace(tasks.find("bytes"), evaluations=50)
