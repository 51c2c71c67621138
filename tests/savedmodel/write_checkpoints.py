"""Write one checkpoint of every kind, samples, and what the source models answer, into the directory argv[1]."""

import json
import shutil
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
import tiny_models as tiny

v1 = tf.compat.v1
root = Path(sys.argv[1])
expected = {}


def trained(model: keras.Model) -> keras.Model:
    model.set_weights([np.random.default_rng(n).uniform(0.1, 1.0, w.shape) for n, w in enumerate(model.get_weights())])
    return model


def write_keras() -> None:
    model = trained(tiny.classifier())
    model.save(root / "classifier.keras")
    model.save_weights(root / "classifier.weights.h5")
    model.save(root / "classifier.h5")
    write_as_keras_2(root / "classifier.h5", root / "keras_2.hdf5")
    step = tf.Variable(7)
    tf.train.Checkpoint(model=model, step=step).save(root / "objects" / "ckpt")
    tf.train.Checkpoint(model).write(str(root / "as_root"))
    expected["classifier"] = model(tiny.features(), training=False).numpy()
    np.savez(root / "features.npz", features=tiny.features(), labels=np.zeros(6))
    np.savez(root / "named_x.npz", x=tiny.features())

    both = trained(tiny.two_inputs())
    both.save(root / "two_inputs.keras")
    left, right = tiny.features(), np.arange(12, dtype=np.int32).reshape(6, 2)
    np.savez(root / "two_inputs.npz", left=left, right=right)
    expected["sum"], expected["rank"] = (out.numpy() for out in both([right, left], training=False))

    by_name = trained(tiny.dict_inputs())
    by_name.save(root / "dict_inputs.keras")
    a, b = left[:, :3], left[:, :2]
    np.savez(root / "dict_inputs.npz", a=a, b=b)
    expected.update({key: value.numpy() for key, value in by_name({"a": a, "b": b}).items()})


def write_as_keras_2(given: Path, out: Path) -> None:
    """Write the whole model of an HDF5 file as Keras 2 described it, with a layer that Keras 3 takes otherwise."""
    shutil.copyfile(given, out)
    with h5py.File(out, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            settings = layer["config"]
            settings.pop("optional", None)
            if isinstance(settings.get("dtype"), dict):
                settings["dtype"] = settings["dtype"]["config"]["name"]
            if layer["class_name"] == "InputLayer":
                settings["batch_input_shape"] = settings.pop("batch_shape")
                settings["ragged"] = False
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
    with h5py.File(root / "weights.h5", "w") as file, h5py.File(given) as whole:
        for name, value in whole["model_weights"].attrs.items():
            file.attrs[name] = value
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", file)


def write_recurrent() -> None:
    """Write a whole model with layers whose arguments Keras 2 wrote and Keras 3 refuses."""
    model = trained(tiny.recurrent())
    model.save(root / "recurrent.h5")
    with h5py.File(root / "recurrent.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "LSTM":
                layer["config"]["time_major"] = False
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)
        config["config"]["layers"][1]["class_name"] = "TFOpLambda"
        unreadable = json.dumps(config)
    shutil.copyfile(root / "recurrent.h5", root / "unknown_layer.h5")
    with h5py.File(root / "unknown_layer.h5", "r+") as file:
        file.attrs["model_config"] = unreadable
    expected["recurrent"] = model(tiny.images(), training=False).numpy()


def write_module() -> None:
    module = tiny.Scale()
    module.factor.assign([5.0, 7.0])
    tf.train.Checkpoint(module).write(str(root / "scale"))
    tf.train.Checkpoint(scale=module).write(str(root / "scale_dict"))
    x, size = tiny.features()[:, :2], np.array([b"small", b"large", b"none"] * 2)
    np.savez(root / "scale.npz", x=x, size=size)
    expected["scaled"] = module.serve(tf.constant(x), tf.constant(size))["scaled"].numpy()


def write_frozen_table() -> None:
    with tf.Graph().as_default() as graph:
        word = v1.placeholder(tf.string, [None], "word")
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant(["a", "b"]), tf.constant([1.0, 2.0])), -1.0
        )
        tf.identity(table.lookup(word), "number")
        (root / "frozen_table.pb").write_bytes(graph.as_graph_def().SerializeToString())
    tf.saved_model.save(tf.Module(), str(root / "empty_model"))
    shutil.copyfile(root / "empty_model" / "saved_model.pb", root / "renamed.pb")
    words = np.array([b"a", b"b", b"c"])
    np.savez(root / "words.npz", word=words)
    expected["number"] = np.array([1.0, 2.0, -1.0], np.float32)


def write_graph() -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        inputs, outputs = tiny.detector()
        step = v1.train.get_or_create_global_step()
        loss = tf.reduce_mean(outputs["result"])
        moments = v1.train.MomentumOptimizer(0.5, 0.9).minimize(loss, global_step=step)
        averages = v1.train.ExponentialMovingAverage(0.5, step)
        with tf.control_dependencies([moments]):
            train = averages.apply(v1.trainable_variables())
        session.run(v1.global_variables_initializer())
        for _ in range(4):
            session.run(train, {inputs["images"]: tiny.images()})
        v1.train.Saver().save(session, str(root / "graph" / "model.ckpt"), global_step=4)
        expected["result"] = session.run(outputs["result"], {inputs["images"]: tiny.images()})
        whole = session.graph.as_graph_def()
        (root / "not_frozen.pb").write_bytes(whole.SerializeToString())
        frozen = v1.graph_util.convert_variables_to_constants(session, whole, ["score_map"])
        (root / "frozen.pb").write_bytes(frozen.SerializeToString())
        v1.train.Saver(averages.variables_to_restore()).restore(session, str(root / "graph" / "model.ckpt-4"))
        expected["averaged"] = session.run(outputs["result"], {inputs["images"]: tiny.images()})
    with tf.Graph().as_default(), v1.Session() as session:
        tiny.detector()
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(root / "plain" / "model.ckpt"))
    np.savez(root / "images.npz", images=tiny.images())
    np.savez(root / "wrong_rank.npz", images=tiny.images()[0])
    np.savez(root / "wrong_type.npz", images=tiny.images().astype(np.float64))


write_keras()
write_recurrent()
write_module()
write_graph()
write_frozen_table()
for name in ("junk", "junk.h5", "junk.pb"):
    (root / name).write_bytes(b"junk" * 100)
(root / "junk.index").write_bytes(b"junk" * 100)
np.savez(root / "expected.npz", **expected)
