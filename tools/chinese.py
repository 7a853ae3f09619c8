"""The words of the nodes in Simplified Chinese, as ComfyUI's own Chinese pages use them. An input that several nodes share is said once."""

from __future__ import annotations

#: Node -> display name, description.
NODES = {
    "KVLockInvertCache": (
        "反演并缓存 KV",
        "准备要编辑的视频：它的 Latent、哪些部分可以改变，以及它通往噪波的路径。键和值（K、V）在采样器里计算，只在锁定的那些步进行，"
        "是否保留由“源模式”决定；只有反演（“源路径”）在这里运行。",
    ),
    "KVLockSampler": ("KV-Lock 采样器", "编辑视频中被遮罩的部分，其余部分保持原样。包含 K采样器 的全部功能，并逐步控制锁定和引导的强度。"),
    "KVLockMonitor": (
        "幻觉监视器",
        "在每一步测量模型对编辑内容还有多少犹豫（风险）。它本身不改变任何结果；这里的风险测量方式也用于同一模型的锁定和 CFG 调度。",
    ),
    "KVLockCFGSchedule": ("CFG 调度", "让 CFG 逐步变化，可跟随风险或按进度变化，并缩放负面预测（s_star）。cfg 为 1 时没有可合并的预测：节点会说明并且不做任何事。"),
    "KVLockApply": ("KV-Lock（修补模型）", "任意采样器编辑遮罩部分时，让视频背景保持与源视频一致。需要引导时加上 CFG 调度，需要观察时加上幻觉监视器。"),
    "KVLockTokenMask": (
        "KV-Lock 遮罩",
        "在源视频的帧上显示模型的哪些 token 可以改变，并输出对应的遮罩。token 是锁定所能区分的最小单位：在 Wan 上为 16 x 16 像素、4 帧，在 Wan 2.2 5B 上为 32 x 32 像素。",
    ),
    "KVLockReport": ("KV-Lock 报告", "显示一次运行中每一步发生了什么：一张图表、几个数字，以及全部数据的 JSON。"),
    "KVLockSaveCache": ("保存 KV 缓存", "把源视频的键和值写入 ComfyUI 的输出文件夹（output/kvlock），它们由“源模式”为 stored 的一次编辑记录。已有的文件不会被覆盖。"),
    "KVLockLoadCache": ("加载 KV 缓存", "把“保存 KV 缓存”写入的键和值交给源。只在模型、视频、噪波、文本和步数与记录时相同的地方使用；其余照常计算，节点会说明原因。"),
}

#: Input -> name, tooltip.
INPUTS = {
    "model": ("模型", "视频模型，LoRA 和其他补丁可按任意顺序"),
    "source": ("源", "来自“反演并缓存 KV”"),
    "source_latent": ("源 Latent", "要编辑的视频，用该模型自己的 VAE 编码（VAE编码）"),
    "edit_mask": ("编辑遮罩", "白色部分可以改变。一帧可用于整个视频，尺寸不限"),
    "source_conditioning": ("源条件", "描述源视频的提示词；不连接时使用编辑的正面条件"),
    "sigmas": ("Sigmas", "采样器的 Sigmas，供需要反演的“源路径”使用；noised 不需要"),
    "source_noise": ("源噪波", "own：用自己的种子抽取一次；shared：使用采样器的噪波；fresh：每步重新抽取"),
    "source_seed": ("源种子", "源视频自己噪波的种子；编辑的种子不受影响"),
    "source_path": ("源路径", "noised：直接加噪，任何一步都精确且没有开销；其他选项会现在就反演，每步调用模型一到两次"),
    "source_mode": ("源模式", "auto：按可用内存决定；lockstep：批次多一行；in_step：单独调用一次；stored：保留键和值，供下次编辑同一视频"),
    "cache_ram_gb": ("内存上限（GB）", "保留的键和值最多占用多少内存，单位 GB；0 为不使用"),
    "cache_vram_gb": ("显存上限（GB）", "保留的键和值最多占用多少显存，两次运行之间也占用，单位 GB；0 为不使用"),
    "cache_disk_gb": ("磁盘上限（GB）", "保留的键和值在 ComfyUI 的 temp 文件夹中最多占用多少空间，单位 GB；0 为不使用"),
    "cache_format": ("缓存格式", "same：与模型计算时相同；int8 只占 bf16 的一半，误差低于 bf16 本身；fp8 误差更大"),
    "refresh_every": ("刷新间隔", "每隔多少个锁定步计算一次源，中间沿用：更快，但不够精确"),
    "positive": ("正面条件", "编辑后的视频显示什么，要完整描述"),
    "negative": ("负面条件", "不希望出现的内容；cfg 为 1 时不使用"),
    "seed": ("种子", "编辑所用噪波的种子"),
    "steps": ("步数", "本次运行的步数；蒸馏模型用 4 到 8 步"),
    "cfg": ("cfg", "提示词的引导强度；蒸馏模型用 1：锁定照常工作，omega 和 s_star 停用"),
    "sampler_name": ("采样器名称", "ComfyUI 的任意采样器"),
    "scheduler": ("调度器", "噪波等级如何分布"),
    "denoise": ("降噪", "1 从纯噪波开始，更低则从“Latent图像”开始"),
    "latent_image": ("Latent图像", "采样从哪里开始；不连接时为源本身，只在降噪低于 1 时有影响"),
    "keep_background": ("保持背景", "背景的 Latent 最终就是源视频的；关闭后只靠锁定保持，此时请把“结束比例”和“alpha 上限”设为 1"),
    "lock_schedule": ("锁定调度", "risk：模型越不确定锁得越紧；constant：始终为“alpha 上限”；linear、cosine：从上限降到下限；off：不锁定"),
    "start_percent": ("开始比例", "经过多少比例的步数后开始锁定；0 最能保持背景，1 从不锁定"),
    "end_percent": ("结束比例", "经过多少比例的步数后结束锁定；1 一直锁到最后"),
    "alpha_ceiling": ("alpha 上限", "最强的锁定：1 让背景使用源的键和值，0 不限制背景"),
    "alpha_floor": ("alpha 下限", "生效范围内最弱的锁定；0 允许平稳的运行不受限制"),
    "tau": ("tau", "锁定完全生效时的风险；越小锁得越紧。KV-Lock 报告会给出建议值"),
    "locked_rows": ("锁定的预测", "锁定正面提示词、负面提示词还是两者的预测；both 最稳妥"),
    "first_block": ("首个块", "锁定的第一个 Transformer 块；0 为第一块"),
    "last_block": ("末个块", "锁定的最后一个 Transformer 块；-1 为模型的最后一块"),
    "omega_schedule": ("CFG 调度方式", "CFG 如何变化：risk：模型不确定时升高；linear、cosine：从上限到下限；constant 和 off：与采样器的 cfg 相同"),
    "omega_ceiling": ("CFG 倍数上限", "CFG 最多是采样器 cfg 的多少倍；1 从不升高"),
    "omega_floor": ("CFG 倍数下限", "CFG 至少是采样器 cfg 的多少倍；1 从不降低，0 为论文的原始公式"),
    "use_s_star": ("使用 s_star", "缩放负面预测以贴合正面预测（s_star，同 CFG-Zero*）；关闭为普通 CFG"),
    "risk_window": ("风险窗口", "比较最近多少次预测；0 为步数的五分之一，论文为 10"),
    "risk_region": ("风险区域", "只在编辑遮罩内测量，或在整个画面测量；没有源时为整个画面"),
    "risk_detrend": ("去除趋势", "预测的平稳漂移不计入风险；窗口至少为 3"),
    "risk_normalise": ("归一化风险", "用预测的均方除以风险，使 tau 成为相对值"),
    "risk_form": ("风险形式", "rate：与步数、shift 和采样器无关；variance：论文的形式，tau 为 0.01"),
    "grow": ("扩展", "把遮罩扩展这么多像素；负数收缩，0 不变"),
    "invert": ("反转", "交换可以改变和保持不变的部分"),
    "snap": ("对齐到 token", "按显示的整块 token 输出遮罩，而不是所画的像素"),
    "frames": ("帧", "源视频的帧，用于在其上显示遮罩"),
    "report": ("报告", "来自幻觉监视器或 KV-Lock 采样器"),
    "latent": ("Latent", "该次运行产生的 Latent；用来确定是哪一次运行"),
    "filename": ("文件名", "output/kvlock 中的名称；用 / 表示子文件夹。重名时会加上编号"),
    "cache_file": ("缓存文件", "output/kvlock 中的文件；保存新文件后按 R 刷新"),
    "control_after_generate": ("生成后的控制", None),
}

#: (node, input) -> tooltip, where it says something of its own.
OWN_INPUTS = {
    ("KVLockInvertCache", "model"): "用来编辑的视频模型；由它得知 token 的大小",
    ("KVLockTokenMask", "model"): "视频模型；由它得知 token 的大小",
    ("KVLockMonitor", "model"): "要观察的模型，有无补丁均可",
    ("KVLockTokenMask", "edit_mask"): "白色部分可以改变。一帧，或视频的每一帧各一张",
    ("KVLockMonitor", "source"): "来自“反演并缓存 KV”：风险在它的编辑遮罩内测量",
    ("KVLockSaveCache", "source"): "来自“反演并缓存 KV”，“源模式”为 stored",
    ("KVLockLoadCache", "source"): "来自“反演并缓存 KV”，设置与保存时相同",
    ("KVLockSaveCache", "latent"): "编辑得到的 Latent，使保存等到采样结束",
    ("KVLockCFGSchedule", "start_percent"): "经过多少比例的步数后 CFG 开始变化；1 从不变化",
    ("KVLockCFGSchedule", "end_percent"): "经过多少比例的步数后 CFG 恢复为采样器的值；1 保持到最后",
    ("KVLockCFGSchedule", "tau"): "CFG 等于采样器 cfg 时的风险；高于它则升高。KV-Lock 报告会给出建议值",
}

#: (node, output) -> name, tooltip.
OUTPUTS = {
    ("KVLockInvertCache", "source"): ("源", "连接到 KV-Lock 采样器或 KV-Lock（修补模型）"),
    ("KVLockInvertCache", "latent"): ("Latent", "带 Latent 噪波遮罩的源，供 KV-Lock（修补模型）之后的采样器使用：背景的 Latent 保持到最后，一个阶段或两个阶段均可"),
    ("KVLockSampler", "latent"): ("Latent", "编辑后的视频，连接到 VAE解码"),
    ("KVLockSampler", "report"): ("报告", "与本节点的 Latent 一起连接到 KV-Lock 报告"),
    ("KVLockMonitor", "model"): ("模型", "同一个模型，之后的每个采样器都会被观察"),
    ("KVLockMonitor", "report"): ("报告", "与采样器的 Latent 一起连接到 KV-Lock 报告"),
    ("KVLockCFGSchedule", "model"): ("模型", "带有此调度的模型，用于之后的每个采样器"),
    ("KVLockApply", "model"): ("模型", "锁定到源的模型，用于之后的每个采样器"),
    ("KVLockTokenMask", "edit_mask"): ("编辑遮罩", "连接到“反演并缓存 KV”"),
    ("KVLockTokenMask", "preview"): ("预览", "每一帧，可以改变的 token 处着色"),
    ("KVLockReport", "chart"): ("图表", "每一步的风险、alpha、omega 和 s_star，生效范围以底色标出"),
    ("KVLockReport", "last_risk"): ("最后的风险", "最后一步的风险；从未得知时为 NaN"),
    ("KVLockReport", "mean_alpha"): ("平均 alpha", "锁定的各步的平均锁定强度；没有锁定时为 0"),
    ("KVLockReport", "locked_share"): ("锁定比例", "锁定的步数所占的比例"),
    ("KVLockReport", "json"): ("JSON", "设置和每一步"),
    ("KVLockReport", "suggested_tau"): ("建议的 tau", "在这样的运行中，平均锁定强度处于“alpha 下限”和“alpha 上限”中间的 tau；风险未知时为 NaN"),
    ("KVLockSaveCache", "latent"): ("Latent", "同一个 Latent"),
    ("KVLockLoadCache", "source"): ("源", "连接到 KV-Lock 采样器或 KV-Lock（修补模型）"),
}
