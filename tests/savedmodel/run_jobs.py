"""Run the export jobs argv[1:] one after another in one process; each leaves its result file."""

import sys

from tfs_deploy.savedmodel.export.child import run_job

for job in sys.argv[1:]:
    run_job(job)
