"""WebGear of vidgear, started as in its documentation: frames in their original size, a stream of JPEGs for each
viewer.
"""

import os

from vidgear.gears.asyncio import WebGear

options = {"skip_generate_webdata": True, "frame_size_reduction": 0, "jpeg_compression_quality": 80}
application = WebGear(source=os.environ["SOURCE"], logging=False, **options)()
