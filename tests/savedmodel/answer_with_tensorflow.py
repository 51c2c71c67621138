"""Load SavedModels with TensorFlow's own loader and write what they answer.

argv[1] is JSON ``[{directory, signature, samples}]``, argv[2] the ``.npz`` file to write.
"""

import json
import sys

import numpy as np
import tensorflow as tf

answers = {}
for number, case in enumerate(json.loads(sys.argv[1])):
    function = tf.saved_model.load(case["directory"]).signatures[case["signature"]]
    with np.load(case["samples"]) as samples:
        inputs = {name: tf.constant(samples[name]) for name in samples.files if name != "labels"}
    answers.update({f"{number}/{name}": value.numpy() for name, value in function(**inputs).items()})
np.savez(sys.argv[2], **answers)
