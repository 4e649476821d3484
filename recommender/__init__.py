"""A real cascade on MovieLens: trained channels and rankers, measured CPU, revenue from likes that nobody trained on."""

import marca_common as marca_common  # settles what must be settled before anything heavy is imported
