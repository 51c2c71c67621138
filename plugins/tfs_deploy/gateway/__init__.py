"""The gateway: an HTTP server that takes JSON, pictures and text, and returns predictions of the live version.

The way of one request, and of its reply back:

    IncomingRequest         web/server            headers, body and reply on a connection
    └ Application           web/app               route, API key, permit, access log, metrics
      └ PredictHandler      web/predict           reads items, fetches URLs, writes JSON
        ├ ModelProcessors   processors/           items to input arrays, output arrays to results
        └ Traffic, Upstream upstream/model        own label, canary or shadow; admission; micro-batching
          └ ReplicaCalls    upstream/calls        choice of a replica, retries, hedging
            └ Attempt       upstream/attempt      label to version, check of the inputs, Predict
"""
