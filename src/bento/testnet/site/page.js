document.querySelector("figcaption").title = `${document.images.length} pictures, ${document.styleSheets.length} style sheet`;
