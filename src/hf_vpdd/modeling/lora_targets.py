"""Which layers LoRA adapts when nobody says: one regular expression over module names for each family.

They name the layers one by one, since lists of suffixes (`q_proj`, `v_proj`) would also hit the frozen towers: CLIP's
text tower, the image tower, the video tokenizer. peft tries them on whole names, so an encoder within a larger model
is not taken for one that stands alone. `hf_vpdd.registration` tells peft.
"""

_ATTENTION_AND_FEED_FORWARD = r"(?:\w+\.)*(?:q_proj|k_proj|v_proj|kv_proj|o_proj|fc1|fc2|c_attn|c_fc|c_proj)"

LORA_TARGETS = {
    # all linear layers of the video trunk, small or official; attention and feed-forward layers of the action head
    "vpdd": (
        r"(?:model\.)?trunk\.(?:"
        r"history_proj|prompt_proj|code_head|history_embed\.[13]|prompt_embed\.fc\d|timestep_embed\.(?:mlp\.[02]|fc\d)|"
        rf"(?:layers\.\d+|reader|decoder)\.{_ATTENTION_AND_FEED_FORWARD})|"
        rf"action_head\.(?:layers|transformer\.h)\.\d+\.{_ATTENTION_AND_FEED_FORWARD}"
    ),
    # all layers of GPT-2; the perceptron that reads actions from it
    "gr1": rf"(?:model\.)?trunk\.h\.\d+\.{_ATTENTION_AND_FEED_FORWARD}|action_head\.fc\d",
    # the convolutions of IMPALA's encoder, of the actor and of the critics. Bit's are not among them: it normalises
    # its weights in every call, and what is added to a normalised weight cannot be merged into it.
    "vptr": r"(?:model\.|actor_|critic_)?encoder\.stacks\.\d+\.(?:conv|blocks\.\d+\.\d)",
    # the decoder's: pictures may look different, codes stay what they were
    "vpdd_vqvae": rf"decoder\.res_stack\.\d+\.(?:conv\d|{_ATTENTION_AND_FEED_FORWARD})",
}
