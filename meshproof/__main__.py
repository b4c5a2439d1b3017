from meshproof.cli import main

main()
