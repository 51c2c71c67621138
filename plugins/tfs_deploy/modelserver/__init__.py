"""The embedded model server: TensorFlow Serving's API and behaviour on TensorFlow's Python runtime.

For laptops, CI and tests; production runs ``tensorflow/serving``. It is a program of its own
(``python -m tfs_deploy.modelserver``), and nothing else in the package imports it.

The pieces, in the order in which a version passes them: `source` finds it on disk, `manager` decides when it is loaded
and unloaded, `loader` and `graph_session` load it, `serving_map` answers with it, `monitor` remembers its states;
`core` applies configurations, `service` speaks gRPC, `rest_port` opens HTTP (`rest_api` answers it), `metrics` counts,
`main` starts and ends it all.
"""
