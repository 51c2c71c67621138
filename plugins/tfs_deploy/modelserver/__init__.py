"""The embedded model server: TensorFlow Serving's API and behaviour on TensorFlow's Python runtime.

For laptops, CI and tests; production runs ``tensorflow/serving``. It is a program of its own
(``python -m tfs_deploy.modelserver``), and nothing else in the package imports it.

`main` starts and stops it, `server` opens its ports, `service` answers gRPC. The packages, in the order in which a
version and then a request pass them:

- `lifecycle`: the versions on disk, the aspired ones, and the states of each
- `loading`: one version from disk into memory, tried in a child process first, then warmed up
- `graph`: a version in memory, as a graph session
- `batching`: sessions that merge concurrent runs
- `inference`: Predict, Classify, Regress and MultiInference on one version
- `rest`: the same over HTTP
"""
