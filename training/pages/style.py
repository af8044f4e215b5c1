"""The look that all pages about training and its data have in common."""

STYLE = """
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
         padding: 0 1rem; color: #1f2937; background: #fff; }
  h1 { font-size: 1.5rem; margin-bottom: .25rem; overflow-wrap: anywhere; }
  h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
  .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr));
           gap: .75rem; margin: 1rem 0; }
  .tile { background: #f9fafb; border-radius: .4rem; padding: .5rem .8rem; }
  .tile b { display: block; font-size: 1.1rem; overflow-wrap: anywhere;
            font-variant-numeric: tabular-nums; }
  .tile span { font-size: .85rem; color: #4b5563; }
"""
