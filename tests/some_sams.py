"""Tiny random SAMs, as folders of transformers."""

from pathlib import Path

import torch

SIDE = 64
"""Long side of the image that they see."""


def write_sam(folder: Path) -> Path:
    """A SAM of two blocks; random, so that its masks are of any shape."""
    import transformers as tf

    torch.manual_seed(0)
    patches = {"image_size": SIDE, "patch_size": 16}
    vision = tf.SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=[1],
        window_size=2, num_pos_feats=8, mlp_dim=32, initializer_range=0.3, **patches,
    )  # fmt: skip
    prompts = tf.SamPromptEncoderConfig(hidden_size=16, mask_input_channels=4, **patches)
    decoder = tf.SamMaskDecoderConfig(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    config = tf.SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder, initializer_range=0.3
    )
    size = {"size": {"longest_edge": SIDE}, "pad_size": {"height": SIDE, "width": SIDE}}
    _save(tf.SamModel(config), tf.SamProcessor(tf.SamImageProcessor(**size)), folder)
    return folder


def write_sam2(folder: Path) -> Path:
    """A SAM 2 of five blocks."""
    import transformers as tf

    torch.manual_seed(0)
    backbone = tf.Sam2HieraDetConfig(
        hidden_size=8, image_size=[SIDE, SIDE], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2], initializer_range=0.3,
    )  # fmt: skip
    vision = tf.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32, initializer_range=0.3,
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
    )  # fmt: skip
    prompts = tf.Sam2PromptEncoderConfig(hidden_size=32, image_size=SIDE, patch_size=16, mask_input_channels=4)
    decoder = tf.Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    config = tf.Sam2Config(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder, initializer_range=0.3
    )
    size = {"height": SIDE, "width": SIDE}
    _save(tf.Sam2Model(config), tf.Sam2Processor(tf.Sam2ImageProcessor(size=size)), folder)
    return folder


def _save(model: torch.nn.Module, processor: object, folder: Path) -> None:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
