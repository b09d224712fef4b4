"""vidgear's WebGear, as its documentation starts it: the source at its own size, each viewer a stream of JPEGs."""

import os

from vidgear.gears.asyncio import WebGear

options = {"skip_generate_webdata": True, "frame_size_reduction": 0, "jpeg_compression_quality": 80}
application = WebGear(source=os.environ["SOURCE"], logging=False, **options)()
