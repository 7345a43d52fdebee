"""Read a Triton `config.pbtxt` with protobuf's own reader. Import it as `helpers_triton`.

The messages below are the part of Triton's `model_config.proto` that we write, with its names,
types and numbers; a name that is not in them is an error, as it is for the server.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3},
}
# name: (number, type, repeated); a type with a capital letter is a message or enum below.
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "ModelConfig": {
        "name": (1, "string", False),
        "max_batch_size": (4, "int32", False),
        "input": (5, "ModelInput", True),
        "output": (6, "ModelOutput", True),
        "instance_group": (7, "ModelInstanceGroup", True),
        "default_model_filename": (8, "string", False),
        "dynamic_batching": (11, "ModelDynamicBatching", False),
        "optimization": (12, "ModelOptimizationPolicy", False),
        "parameters": (14, "ParametersEntry", True),
        "backend": (17, "string", False),
    },
    "ModelInput": {
        "name": (1, "string", False),
        "data_type": (2, "DataType", False),
        "dims": (4, "int64", True),
        "reshape": (5, "ModelTensorReshape", False),
    },
    "ModelOutput": {
        "name": (1, "string", False),
        "data_type": (2, "DataType", False),
        "dims": (3, "int64", True),
        "reshape": (5, "ModelTensorReshape", False),
    },
    "ModelTensorReshape": {"shape": (1, "int64", True)},
    "ModelInstanceGroup": {
        "count": (2, "int32", False),
        "kind": (4, "Kind", False),
        "profile": (5, "string", True),
    },
    "ModelDynamicBatching": {
        "preferred_batch_size": (1, "int32", True),
        "max_queue_delay_microseconds": (2, "uint64", False),
    },
    "ModelOptimizationPolicy": {"graph": (1, "Graph", False)},
    "Graph": {"level": (1, "int32", False)},
    "ParametersEntry": {"key": (1, "string", False), "value": (2, "ModelParameter", False)},
    "ModelParameter": {"string_value": (1, "string", False)},
}


def _config_class() -> Any:
    field = descriptor_pb2.FieldDescriptorProto
    plain = {
        "string": field.TYPE_STRING,
        "int32": field.TYPE_INT32,
        "int64": field.TYPE_INT64,
        "uint64": field.TYPE_UINT64,
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="triton.proto", package="inference", syntax="proto3"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for key, (number, kind, repeated) in fields.items():
            added = message.field.add(name=key, number=number)
            added.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in plain:
                added.type = plain[kind]
            else:
                added.type = field.TYPE_ENUM if kind in _ENUMS else field.TYPE_MESSAGE
                added.type_name = f".inference.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def triton_config(text: str) -> Any:
    """Parse the text of a `config.pbtxt`; raises protobuf's ParseError where it makes no sense."""
    return text_format.Parse(text, _config_class()())


def parameters_of(config: Any) -> dict[str, str]:
    """Return the `parameters` of a configuration."""
    return {entry.key: entry.value.string_value for entry in config.parameters}
